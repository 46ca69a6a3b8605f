"""Reads pip's requirements files, by name and by reference."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator

from workers.environment.declared import Declared, tier_of

_MAX_NESTING = 10  # of files that name files
_RUNTIME_WORDS = frozenset({"base", "common", "core", "install", "main", "prod", "production", "runtime"})
_REFERENCE = re.compile(r"^(-r|--requirement|-c|--constraint)[\s=]*(\S+)")
_OWN_EXTRAS = re.compile(r"^(?:-e\s*|--editable[\s=]+)?\.(?:/)?(?:\[([\w\s,.-]*)\])?$")
_TAIL = re.compile(r"(^|\s)(--hash|--config-settings|--global-option)[\s=].*$")


def read(declared: Declared, paths: Iterable[str]) -> None:
    """Take the requirements files whose names say that they are for running, testing or developing."""
    for path in paths:
        tier = tier_of_file(path)
        if tier:
            declared.tiers[tier] += lines_of(declared, path)


def tier_of_file(path: str) -> str:
    """Return the tier of a requirements file by its name, or "" for one of no interest."""
    stem, dot, suffix = path.lower().rpartition(".")
    words = [word for word in re.split(r"[/_.\s-]+", stem) if word]
    if suffix != "txt" or not dot or path.count("/") > 1 or not {"requirements", "reqs"} & set(words):
        return ""
    rest = set(words) - {"requirements", "reqs"}
    if rest <= _RUNTIME_WORDS:
        return "runtime"
    by_word = {tier_of(word) for word in rest}
    return next((tier for tier in ("test", "development") if tier in by_word), "")


def lines_of(declared: Declared, path: str, nesting: int = 0) -> list[str]:
    """Return the requirements of a file and of those it refers to."""
    path = posixpath.normpath(path)
    text = None if path.startswith(("..", "/")) else declared.text(path)
    if text is None:
        declared.warnings.append(f"requirements file {path} is missing or lies outside the repository")
        return []
    return parse_lines(declared, text, path, nesting)


def parse_lines(declared: Declared, text: str, path: str, nesting: int = 0) -> list[str]:
    """Return the requirements in the text of a requirements file."""
    return list(_parsed(declared, text, path, nesting))


def _parsed(declared: Declared, text: str, path: str, nesting: int) -> Iterator[str]:
    for raw in text.replace("\\\n", " ").splitlines():
        line = _TAIL.sub("", re.sub(r"(^|\s)#.*$", "", raw)).strip()
        reference, own = _REFERENCE.match(line), _OWN_EXTRAS.match(line)
        if not line:
            continue
        if reference:
            target = posixpath.join(posixpath.dirname(path), reference[2])
            found = lines_of(declared, target, nesting + 1) if nesting < _MAX_NESTING else []
            if reference[1] in ("-r", "--requirement"):
                yield from found
            else:
                declared.constraints += found
        elif own:
            for extra in (own[1] or "").split(","):
                yield from declared.extra_lines(extra.strip()) if extra.strip() else ()
        elif line.startswith("-") or line.startswith((".", "/")) or re.match(r"^[\w+.-]+://", line):
            declared.warnings.append(f"left out, not a package of the index: {line} ({path})")
        else:
            yield line
