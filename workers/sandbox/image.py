"""The Docker sandbox's image: built once per recipe, on the official Python image or on a Debian bootstrap.

Nothing of loopwright is installed in it: a target repository may have a `pipeline` or `model` of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from workers.sandbox.owner import this_process

if TYPE_CHECKING:
    import docker

Progress = Callable[[str], None]

DEFAULT_TAG = "loopwright-python:3.11"
OFFICIAL_BASE = "python:3.11-slim-bookworm"
RECIPE_LABEL = "io.loopwright.recipe"
BASE_LABEL = "io.loopwright.base"
TEMPORARY_PREFIX = "loopwright-image-"
_PACKAGES = "python3,python3-venv,python3-pip,ca-certificates"
_PER_PACKAGE = ("Retrieving ", "Validating ", "Unpacking ", "Configuring ", "Extracting ")
_BUILD_LOCK_SECONDS = 1800


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """An image that was built here and that Python ran in."""

    tag: str
    image_id: str  # sha256:…; runs name the image by it
    base: str
    recipe: str  # hash of what it was built from


def ensure_image(
    client: docker.DockerClient, home: Path, tag: str = DEFAULT_TAG, on_progress: Progress | None = None
) -> ImageRecord:
    """Return the image for the shipped recipe, building it when the engine has none.

    Raises:
        EnvironmentBrokenError: no base can be had: no registry answers, and no bootstrap can be made here.
        SandboxError: the build broke.
    """
    from filelock import FileLock

    say = on_progress or (lambda _: None)
    folder = home / "sandbox"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "image.lock", timeout=_BUILD_LOCK_SECONDS):
        record = _present(client, folder, tag)
        if record is None:
            record = _build(client, tag, say)
        _write(folder, record)
    return record


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


def _recipe() -> str:
    content = (recipe_folder() / "Dockerfile").read_bytes() + OFFICIAL_BASE.encode() + _PACKAGES.encode()
    return hashlib.sha256(content).hexdigest()


def _present(client: docker.DockerClient, folder: Path, tag: str) -> ImageRecord | None:
    """Return the image when the engine has one of the same recipe, by the record's id or else by its tag."""
    from docker.errors import ImageNotFound

    for name in (_recorded_id(folder, tag), tag):
        with contextlib.suppress(ImageNotFound):
            image = client.images.get(name) if name else None
            if image and image.labels.get(RECIPE_LABEL) == _recipe():
                return ImageRecord(tag, str(image.id), image.labels.get(BASE_LABEL, ""), _recipe())
    return None


def _recorded_id(folder: Path, tag: str) -> str | None:
    try:
        return str(json.loads(_record_file(folder, tag).read_text())["image_id"])
    except (OSError, ValueError, KeyError):
        return None


def _record_file(folder: Path, tag: str) -> Path:
    return folder / f"image-{hashlib.sha256(tag.encode()).hexdigest()[:12]}.json"


def _write(folder: Path, record: ImageRecord) -> None:
    file = _record_file(folder, record.tag)
    partial = file.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(record), indent=2))
    partial.replace(file)


def _build(client: docker.DockerClient, tag: str, say: Progress) -> ImageRecord:
    base = _official_base(client, say) or _bootstrap_base(client, say)
    say(f"building {tag} on {base}")
    events = client.api.build(
        path=str(recipe_folder()),
        buildargs={"BASE": base},
        labels={RECIPE_LABEL: _recipe(), BASE_LABEL: base},
        network_mode="none",
        tag=tag,
        rm=True,
        forcerm=True,
        decode=True,
    )
    for event in events:
        if "error" in event:
            raise SandboxError(f"the image {tag} could not be built: {event['error'].strip()}")
    image_id = str(client.images.get(tag).id)
    _smoke_test(client, image_id)
    client.images.prune(filters={"dangling": True, "label": RECIPE_LABEL})  # what this build replaced
    say(f"built {tag}: {image_id}")
    return ImageRecord(tag, image_id, base, _recipe())


def _smoke_test(client: docker.DockerClient, image_id: str) -> None:
    """Raise SandboxError unless Python runs in the image, can make environments, and sees nothing of ours."""
    from docker.errors import ContainerError

    code = (
        "import ensurepip, pip, sys, venv, importlib.util as u; sys.exit(u.find_spec('pipeline') is not None)"
    )
    try:
        client.containers.run(
            image_id, ["python", "-c", code], network_mode="none", remove=True, user="65532"
        )
    except ContainerError as error:
        raise SandboxError(f"Python does not work in the image that was built: {error}") from error


def _official_base(client: docker.DockerClient, say: Progress) -> str | None:
    """Return the official image's digest, or None where no registry answers."""
    from docker.errors import APIError
    from requests.exceptions import RequestException

    say(f"asking the registry for {OFFICIAL_BASE}")
    try:
        image = client.images.pull(OFFICIAL_BASE)
    except (APIError, RequestException) as error:
        say(f"no registry answers ({str(error)[:120]})")
        return None
    digests = image.attrs.get("RepoDigests") or [OFFICIAL_BASE]
    return str(digests[0])


def _bootstrap_base(client: docker.DockerClient, say: Progress) -> str:
    """Return a local image of a minimal Debian with Python, from the mirror that this machine uses."""
    from docker.errors import ImageNotFound

    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        raise EnvironmentBrokenError(
            f"no registry answers for {OFFICIAL_BASE}, and no bootstrap can be made here",
            hint="install debootstrap, run `loopwright sandbox build` as root; or use --sandbox bubblewrap",
        )
    mirror, release = _mirror()
    tag = f"loopwright-bootstrap:{release}-{hashlib.sha256(_PACKAGES.encode()).hexdigest()[:8]}"
    with contextlib.suppress(ImageNotFound):
        client.images.get(tag)
        return tag
    say(f"making a minimal {release} from the package mirror: one to three minutes, about 100 MB")
    with _temporary_folder() as folder:
        _debootstrap(release, mirror, folder / "root", say)
        say("importing it into the engine")
        archive = folder / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(folder / "root", arcname=".", filter=_without_caches)
        with archive.open("rb") as stream:
            _import(client, stream, tag)
    return tag


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    # The owner in its name lets a later process remove it, should this one be killed.
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}{this_process()}-") as name:
        yield Path(name)


def _mirror() -> tuple[str, str]:
    """Return the mirror and the release of this machine's own package sources."""
    release = _os_release().get("VERSION_CODENAME", "")
    lines = _output(
        "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"
    )
    for line in lines.splitlines():
        site, suite, component = line.split()
        if (suite, component) == (release, "main"):
            return site, release
    raise EnvironmentBrokenError(
        "no package source of this machine serves its own release", hint="check /etc/apt/sources.list.d"
    )


def _os_release() -> dict[str, str]:
    pairs = (line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def _debootstrap(release: str, mirror: str, target: Path, say: Progress) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", release, str(target), mirror]
    env = {**os.environ, **_apt_proxies()}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    ) as process:
        assert process.stdout is not None
        last = ""
        try:
            for line in process.stdout:
                last = line.strip()
                _say_step(last, say)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise SandboxError(f"debootstrap failed: {last}")


def _say_step(line: str, say: Progress) -> None:
    # One line per step, not one per package.
    step = line.removeprefix("I: ")
    if line.startswith("I: ") and not step.startswith(_PER_PACKAGE):
        say(step)


def _apt_proxies() -> dict[str, str]:
    """Return the proxies that apt uses here, for a tool that asks the environment instead."""
    found = {}
    for scheme in ("http", "https"):
        value = _output("apt-config", "dump", "--format=%v", f"Acquire::{scheme}::Proxy").strip()
        if value and value != "DIRECT":
            found[f"{scheme}_proxy"] = value
    return found


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentBrokenError(
            f"{command[0]} failed: {error}", hint="a bootstrap needs Debian's apt"
        ) from error


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    caches = ("./var/cache/apt/", "./var/lib/apt/lists/", "./proc/", "./sys/", "./dev/")
    return None if member.name.startswith(caches) or member.isdev() else member


def _import(client: docker.DockerClient, stream: IO[bytes], tag: str) -> None:
    name, version = tag.split(":")
    answer: Any = client.api.import_image_from_data(stream, repository=name, tag=version)
    if '"error"' in str(answer):
        raise SandboxError(f"the engine refused the image: {str(answer)[-300:]}")
