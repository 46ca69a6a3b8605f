"""The images that are shipped: what each is built on, and which Python it has."""

from __future__ import annotations

from dataclasses import dataclass

from packaging.specifiers import InvalidSpecifier, SpecifierSet

DEFAULT_PYTHON = "3.11"
_PYTHON_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image, before it is built."""

    tag: str
    python: str  # "3.9"
    official: str  # its base where a registry answers
    release: str  # the Debian release with this Python, which is its base elsewhere; "" where none has it
    packages: tuple[str, ...] = _PYTHON_PACKAGES  # of that release
    programs: tuple[str, ...] = ()  # what it has besides Python


def _python(version: str, release: str = "") -> ImageSpec:
    return ImageSpec(f"loopwright-python:{version}", version, f"python:{version}-slim-bookworm", release)


PYTHONS = (
    _python("3.13", "trixie"),
    _python("3.12"),
    _python("3.11", "bookworm"),
    _python("3.10"),
    _python("3.9", "bullseye"),
)
# For test commands that call a compiler or make. Python is in it as well: environments are prepared with it.
GENERIC = ImageSpec(
    "loopwright-generic:3.11",
    "3.11",
    "python:3.11-bookworm",
    "bookworm",
    (*_PYTHON_PACKAGES, "build-essential", "git"),
    ("cc", "g++", "make", "git"),
)
IMAGES = {spec.tag: spec for spec in (*PYTHONS, GENERIC)}


def of_python(version: str) -> ImageSpec:
    """Return the image with this Python, one of those above ("3.9")."""
    return next(spec for spec in PYTHONS if spec.python == version)


def fitting(requires_python: str) -> tuple[ImageSpec, ...]:
    """Return the images whose Python a `requires-python` allows, newest first; none if it cannot be read."""
    try:
        allowed = SpecifierSet(requires_python)
    except InvalidSpecifier:
        return ()
    # A release's patch level is not known before it runs: a late one is the likelier.
    return tuple(spec for spec in PYTHONS if allowed.contains(f"{spec.python}.99"))
