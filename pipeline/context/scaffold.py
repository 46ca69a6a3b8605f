"""Gives definitions that are missing a place: a stub that says how the tests call it, for a draft to fill."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Sequence

from pipeline.context.missing import Kind, Missing
from pipeline.snapshot import Snapshot

_PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)
_HEADS: dict[Kind, str] = {
    "function": "def {name}({parameters}):",
    "async function": "async def {name}({parameters}):",
    "method": "def {name}(self, {parameters}):",
    "async method": "async def {name}(self, {parameters}):",
    "classmethod": "@classmethod\ndef {name}(cls, {parameters}):",
    "property": "@property\ndef {name}(self):",
    "class": "class {name}:",
    "error": "class {name}(Exception):",
}


def scaffolded(snapshot: Snapshot, missing: Sequence[Missing]) -> dict[str, bytes]:
    """Return the files with a stub for each missing definition; those left out that cannot take theirs."""
    files: dict[str, bytes] = {}
    places: dict[tuple[str, int], list[str]] = defaultdict(list)
    for one in missing:
        line = _line_behind(snapshot.read_bytes(one.path), one)
        if line is not None:
            places[one.path, line].append(stub(one, _indentation(snapshot.read_bytes(one.path), one)))
            if one.exported_by:
                export = _export(snapshot.read_bytes(one.exported_by), one)
                places[one.exported_by, export[0]].append(export[1])
    for (path, line), texts in sorted(places.items(), key=lambda item: item[0], reverse=True):
        files[path] = _with_lines(files.get(path) or snapshot.read_bytes(path), line, "".join(texts))
    return {path: data for path, data in files.items() if _parses(data)}


def stub(missing: Missing, indent: str = "") -> str:
    """Return the text of a definition without a body, with blank lines before it."""
    step = "\t" if "\t" in indent else "    "
    head = _HEADS[missing.kind].format(name=missing.name, parameters=missing.parameters)
    heads = head.replace(", )", ")").split("\n")
    called = (
        ["# TODO: it is called as", *(f"#   {call}" for call in missing.calls)]
        if missing.calls
        else ["# TODO"]
    )
    body = {
        "error": ["pass"],
        "class": [*called, "pass"],
    }.get(missing.kind, [*called, "raise NotImplementedError"])
    lines = [*heads, *(step + line for line in body)]
    blank = "\n" if missing.owner else "\n\n"
    text = blank + "".join(f"{indent}{line}\n" for line in lines)
    return text.encode("ascii", "backslashreplace").decode()


def _line_behind(data: bytes, missing: Missing) -> int | None:
    """Return the line behind which the definition goes, or None where it has no place."""
    try:
        module = ast.parse(data)
    except _PARSE_ERRORS:
        return None
    if missing.owner:
        owner = _class(module, missing.owner)
        return owner.end_lineno if owner and owner.body[0].lineno > owner.lineno else None
    found = [n for n in module.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    beside = [n for n in found if n.name in missing.beside] or found
    return beside[-1].end_lineno if beside else data.count(b"\n") + 1


def _indentation(data: bytes, missing: Missing) -> str:
    owner = _class(ast.parse(data), missing.owner) if missing.owner else None
    if owner is None:
        return ""
    line = data.split(b"\n")[owner.body[0].lineno - 1]
    return line[: len(line) - len(line.lstrip(b" \t"))].decode()


def _class(module: ast.Module, qualname: str) -> ast.ClassDef | None:
    scope: ast.Module | ast.ClassDef | None = module
    for part in qualname.split("."):
        body = scope.body if scope else []
        scope = next((n for n in body if isinstance(n, ast.ClassDef) and n.name == part), None)
    return scope if isinstance(scope, ast.ClassDef) else None


def _export(data: bytes, missing: Missing) -> tuple[int, str]:
    """Return the import that makes a package offer the definition, and the line behind which it goes."""
    stem = missing.path.rpartition("/")[2].removesuffix(".py")
    for node in ast.parse(data).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").rpartition(".")[2] == stem:
            source = "." * node.level + (node.module or "")
            return node.end_lineno or 0, f"from {source} import {missing.name}\n"
    return data.count(b"\n") + 1, f"from .{stem} import {missing.name}\n"


def _with_lines(data: bytes, line: int, text: str) -> bytes:
    """Return the file with the text behind a line (from 1), with the line ends that the file has."""
    if data.count(b"\r\n") > data.count(b"\n") / 2:
        text = re.sub(r"\r?\n", "\r\n", text)
    lines = data.splitlines(keepends=True)
    before, after = lines[:line], lines[line:]
    if before and not before[-1].endswith(b"\n"):
        before.append(b"\n")
    return b"".join([*before, text.encode(), *after])


def _parses(data: bytes) -> bool:
    try:
        ast.parse(data)
    except _PARSE_ERRORS:
        return False
    return True
