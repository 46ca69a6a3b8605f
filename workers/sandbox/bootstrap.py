"""A base for an image where no registry answers: a minimal Debian from this machine's package mirror."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.exceptions import EnvironmentBrokenError, SandboxError
from pipeline.owner import owned_folder
from workers.sandbox.image_table import PYTHONS, ImageSpec

if TYPE_CHECKING:
    import docker

_PER_PACKAGE = ("Retrieving ", "Validating ", "Unpacking ", "Configuring ", "Extracting ")
_MIRROR_TIMEOUT_SECONDS = 20


def bootstrapped(client: docker.DockerClient, spec: ImageSpec, say: Callable[[str], None]) -> str:
    """Return the name of a local image of the spec's Debian release with its packages.

    Raises:
        EnvironmentBrokenError: it cannot be made on this machine; the hint names the versions that can.
        SandboxError: making it failed.
    """
    from docker.errors import ImageNotFound

    if not spec.release:
        raise _cannot_be_had(spec, "no Debian release has it")
    packages = ",".join(spec.packages)
    tag = f"loopwright-bootstrap:{spec.release}-{hashlib.sha256(packages.encode()).hexdigest()[:8]}"
    with contextlib.suppress(ImageNotFound):
        client.images.get(tag)
        return tag
    mirror = _mirror_for(spec)
    say(f"making a minimal {spec.release} from the package mirror: one to three minutes, 100 MB and more")
    with owned_folder("image") as folder:
        _debootstrap(spec.release, packages, mirror, folder / "root", say)
        say("importing it into the engine")
        archive = folder / "root.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(folder / "root", arcname=".", filter=_without_caches)
        with archive.open("rb") as stream:
            _import(client, stream, tag)
    return tag


def _mirror_for(spec: ImageSpec) -> str:
    if not _can_bootstrap():
        raise _cannot_be_had(spec, "no bootstrap can be made here")
    mirror = _serving(spec.release)
    if mirror is None:
        raise _cannot_be_had(spec, f"this machine's package mirror has no {spec.release}")
    return mirror


def _can_bootstrap() -> bool:
    return os.geteuid() == 0 and shutil.which("debootstrap") is not None


def _cannot_be_had(spec: ImageSpec, reason: str) -> EnvironmentBrokenError:
    if _can_bootstrap():
        here = [other.python for other in reversed(PYTHONS) if other.release and _serving(other.release)]
        hint = f"what can be had here: Python {', '.join(here)}" if here else "check /etc/apt/sources.list.d"
    else:
        hint = "install debootstrap and run `loopwright sandbox build` as root"
    return EnvironmentBrokenError(
        f"there is no image with Python {spec.python}: no registry answers for {spec.official}, and {reason}",
        hint=f"{hint}; or use --sandbox bubblewrap",
    )


def _serving(release: str) -> str | None:
    """Return the first mirror of this machine's own package sources that serves the release."""
    import requests

    for site in _mirrors():
        with contextlib.suppress(requests.RequestException):
            url = f"{site.rstrip('/')}/dists/{release}/Release"
            answer = requests.head(
                url, timeout=_MIRROR_TIMEOUT_SECONDS, allow_redirects=True, proxies=_apt_proxies()
            )
            if answer.ok:
                return site
    return None


def _mirrors() -> tuple[str, ...]:
    """Return where this machine's own release comes from; other releases lie beside it."""
    own = _os_release().get("VERSION_CODENAME", "")
    lines = _output(
        "apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"
    )
    found = (line.split() for line in lines.splitlines())
    return tuple(
        dict.fromkeys(site for site, suite, component in found if (suite, component) == (own, "main"))
    )


def _os_release() -> dict[str, str]:
    pairs = (line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, value in pairs}


def _apt_proxies() -> dict[str, str]:
    """Return the proxies that apt uses here, by scheme."""
    found = {}
    for scheme in ("http", "https"):
        value = _output("apt-config", "dump", "--format=%v", f"Acquire::{scheme}::Proxy").strip()
        if value and value != "DIRECT":
            found[scheme] = value
    return found


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentBrokenError(
            f"{command[0]} failed: {error}", hint="a bootstrap needs Debian's apt"
        ) from error


def _debootstrap(release: str, packages: str, mirror: str, target: Path, say: Callable[[str], None]) -> None:
    # Without the keyring of a release debootstrap goes on unchecked, unless it is forced to check.
    options = ("--variant=minbase", "--force-check-gpg", f"--include={packages}")
    env = {**os.environ, **{f"{scheme}_proxy": proxy for scheme, proxy in _apt_proxies().items()}}
    with subprocess.Popen(
        ["debootstrap", *options, release, str(target), mirror],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
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


def _say_step(line: str, say: Callable[[str], None]) -> None:
    # One line per step, not one per package.
    step = line.removeprefix("I: ")
    if line.startswith("I: ") and not step.startswith(_PER_PACKAGE):
        say(step)


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    caches = ("./var/cache/apt/", "./var/lib/apt/lists/", "./proc/", "./sys/", "./dev/")
    return None if member.name.startswith(caches) or member.isdev() else member


def _import(client: docker.DockerClient, stream: IO[bytes], tag: str) -> None:
    name, version = tag.split(":")
    answer: Any = client.api.import_image_from_data(stream, repository=name, tag=version)
    if '"error"' in str(answer):
        raise SandboxError(f"the engine refused the image: {str(answer)[-300:]}")
