"""The Docker sandbox's images: built once per recipe, on the official Python images or on a Debian bootstrap.

Nothing of loopwright is installed in them: a target repository may have a `pipeline` or `model` of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import Outcome, SandboxLimits, SandboxRequest
from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from workers.sandbox.bootstrap import bootstrapped
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.image_table import DEFAULT_PYTHON, IMAGES, ImageSpec, of_python

if TYPE_CHECKING:
    import docker

Progress = Callable[[str], None]

DEFAULT_TAG = of_python(DEFAULT_PYTHON).tag
RECIPE_LABEL = "io.loopwright.recipe"
BASE_LABEL = "io.loopwright.base"
_BUILD_LOCK_SECONDS = 1800
# What sandboxes and the preparation of environments call. Its output: Python's version, then every package.
_SMOKE_TEST = """
set -e
for program in head tar env stat timeout perl find touch "$@"; do
  command -v "$program" > /dev/null || { echo "no $program" >&2; exit 1; }
done
python3 -m venv --without-pip /tmp/venv
/tmp/venv/bin/python -c 'import ensurepip'
python3 -c '
import importlib.util, platform
assert not any(map(importlib.util.find_spec, ("pipeline", "workers", "model"))), "loopwright is in it"
print(platform.python_version())
'
dpkg-query --show
"""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image that is here, and that Python ran in."""

    tag: str
    image_id: str  # sha256:…; runs name the image by it
    base: str  # the official image's digest, or the bootstrap's release
    recipe: str  # hash of what it was built from; "" for one that is not ours
    python: str = ""  # "3.11.2"; "" where it was not looked at
    packages: str = ""  # hash of the names and versions of its Debian packages


def ensure_image(
    client: docker.DockerClient, home: Path, tag: str = DEFAULT_TAG, on_progress: Progress | None = None
) -> ImageRecord:
    """Return the image: a shipped one is built when the engine has none; any other has to be there.

    Raises:
        EnvironmentBrokenError: a shipped one has no base here: no registry answers, and no bootstrap can be
            made; or the image is not ours, and not there.
        SandboxError: the build broke, or the image lacks what a sandbox needs.
    """
    from filelock import FileLock

    if tag not in IMAGES:
        return _foreign(client, tag)
    spec, say = IMAGES[tag], on_progress or (lambda _: None)
    folder = home / "sandbox"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "image.lock", timeout=_BUILD_LOCK_SECONDS):
        record = find_image(client, home, spec) or _build(client, spec, say)
        if not record.python:
            record = smoke_tested(client, spec, record)
        _write(folder, record)
    return record


def find_image(client: docker.DockerClient, home: Path, spec: ImageSpec) -> ImageRecord | None:
    """Return the image when the engine has one of the same recipe, by the record's id or else by its tag."""
    from docker.errors import ImageNotFound

    known = _read(home / "sandbox", spec.tag)
    for name in (known.image_id if known else "", spec.tag):
        with contextlib.suppress(ImageNotFound):
            image = client.images.get(name) if name else None
            if image and image.labels.get(RECIPE_LABEL) == _recipe(spec):
                found = ImageRecord(spec.tag, str(image.id), image.labels.get(BASE_LABEL, ""), _recipe(spec))
                return known if known and known.image_id == found.image_id else found
    return None


def remove_image(client: docker.DockerClient, home: Path, tag: str = DEFAULT_TAG) -> None:
    """Forget the image, so that the next run builds it afresh."""
    from docker.errors import ImageNotFound

    _record_file(home / "sandbox", tag).unlink(missing_ok=True)
    with contextlib.suppress(ImageNotFound):
        client.images.remove(tag, force=True)


def recipe_folder() -> Path:
    """Return the folder of the Dockerfile: in the package, or in the source tree that it is run from."""
    packaged = Path(__file__).parents[1] / "sandbox_images" / "python"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "sandbox_images" / "python"


def _recipe(spec: ImageSpec) -> str:
    content = (recipe_folder() / "Dockerfile").read_bytes()
    return hashlib.sha256(content + spec.official.encode() + ",".join(spec.packages).encode()).hexdigest()


def _foreign(client: docker.DockerClient, tag: str) -> ImageRecord:
    from docker.errors import APIError

    try:
        return ImageRecord(tag, str(client.images.get(tag).id), tag, "")
    except APIError as error:
        raise EnvironmentBrokenError(
            f"the engine has no image {tag}",
            hint=f"pull or build it, or set sandbox.image to one of ours: {', '.join(IMAGES)}",
        ) from error


def _record_file(folder: Path, tag: str) -> Path:
    return folder / f"image-{hashlib.sha256(tag.encode()).hexdigest()[:12]}.json"


def _read(folder: Path, tag: str) -> ImageRecord | None:
    try:
        return ImageRecord(**json.loads(_record_file(folder, tag).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _write(folder: Path, record: ImageRecord) -> None:
    file = _record_file(folder, record.tag)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(record), indent=2))
    partial.replace(file)


def _build(client: docker.DockerClient, spec: ImageSpec, say: Progress) -> ImageRecord:
    base = _official_base(client, spec, say) or bootstrapped(client, spec, say)
    say(f"building {spec.tag} on {base}")
    replaced = _id_of(client, spec.tag)
    events = client.api.build(
        path=str(recipe_folder()),
        buildargs={"BASE": base},
        labels={RECIPE_LABEL: _recipe(spec), BASE_LABEL: base},
        network_mode="none",
        tag=spec.tag,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for event in events:
        if "error" in event:
            raise SandboxError(f"the image {spec.tag} could not be built: {event['error'].strip()}")
    record = ImageRecord(spec.tag, _id_of(client, spec.tag), base, _recipe(spec))
    record = smoke_tested(client, spec, record)
    _drop(client, replaced, unless=record.image_id)
    say(f"built {spec.tag}: {record.image_id}")
    return record


def _id_of(client: docker.DockerClient, tag: str) -> str:
    from docker.errors import ImageNotFound

    try:
        return str(client.images.get(tag).id)
    except ImageNotFound:
        return ""


def _drop(client: docker.DockerClient, image_id: str, *, unless: str) -> None:
    """Remove the image that a build has replaced, if no container is made of it."""
    from docker.errors import APIError

    if image_id and image_id != unless:
        with contextlib.suppress(APIError):
            client.images.remove(image_id)


def smoke_tested(client: docker.DockerClient, spec: ImageSpec, record: ImageRecord) -> ImageRecord:
    """Return the record with what the image has, after a run in it under the profile of every run.

    Raises:
        SandboxError: Python does not work in it, a program is missing, or something of ours is in it.
    """
    request = SandboxRequest(
        argv=("sh", "-c", _SMOKE_TEST, "sh", *spec.programs), limits=SandboxLimits(wall_seconds=120)
    )
    result = asyncio.run(DockerSandbox(client, record.image_id).run(request))
    if result.outcome is not Outcome.EXITED or result.exit_code != 0:
        said = result.error or result.stderr.text().strip()[-500:] or result.outcome
        raise SandboxError(f"the image {spec.tag} does not serve as a sandbox: {said}")
    python, _, packages = result.stdout.text().partition("\n")
    digest = f"sha256:{hashlib.sha256(packages.encode()).hexdigest()}"
    return ImageRecord(record.tag, record.image_id, record.base, record.recipe, python, digest)


def _official_base(client: docker.DockerClient, spec: ImageSpec, say: Progress) -> str | None:
    """Return the official image's digest, or None where no registry answers."""
    from docker.errors import APIError
    from requests.exceptions import RequestException

    say(f"asking the registry for {spec.official}")
    try:
        image = client.images.pull(spec.official)
    except (APIError, RequestException) as error:
        say(f"no registry answers ({str(error)[:120]})")
        return None
    digests = image.attrs.get("RepoDigests") or [spec.official]
    return str(digests[0])
