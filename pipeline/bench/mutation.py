"""Finds the mutations of a file: every place where an operator applies and a different program comes out."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

from pipeline.bench.operators import OPERATORS, FunctionNode, FunctionView
from pipeline.bench.source import PARSE_ERRORS, Edit, Source
from pipeline.draft.syntax import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One edit of one function. Lines count from 1, both ends included."""

    path: str
    qualname: str  # of the outermost function, as a suspect is named
    operator: str
    edit: Edit
    line: int  # where the edit begins
    reach: tuple[int, int]  # a test that runs none of these lines cannot notice it

    @property
    def place(self) -> str:
        """The function as `path::qualname`."""
        return f"{self.path}::{self.qualname}"

    @property
    def key(self) -> str:
        """A name that is the same on every machine."""
        parts = (self.path, self.operator, self.edit.start, self.edit.end, self.edit.text)
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def functions(source: Source) -> Iterator[FunctionView]:
    """Return functions and methods, in order; a function nested in a function belongs to it."""
    yield from _functions(source, source.tree.body, (), None)


def mutations(source: Source) -> list[Mutation]:
    """Return every mutation of a file, in order of the text; `drop_reason` says which are worth nothing."""
    found = {mutation.edit: mutation for view in functions(source) for mutation in _candidates(view)}
    return sorted(found.values(), key=lambda mutation: (mutation.edit, mutation.operator))


def drop_reason(old: bytes, new: bytes) -> str:
    """Return why the edited file is no bug, or an empty string. Nothing is run.

    "does not compile", or "equivalent": the same syntax without docstrings, or the same byte code.
    """
    after = _program(new)
    if after is None:
        return "does not compile"
    if fingerprint("", old) == fingerprint("", new) or _program(old) == after:
        return "equivalent"
    return ""


@lru_cache(maxsize=8)  # the base is asked for with every mutation
def _program(data: bytes) -> tuple[object, ...] | None:
    """Return what the file's byte code does, or None where it does not compile."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _instructions(compile(data, "", "exec", dont_inherit=True, optimize=0))
    except PARSE_ERRORS:
        return None


def _candidates(view: FunctionView) -> Iterator[Mutation]:
    for operator in OPERATORS.values():
        for edit in operator.find(view):
            text = view.source.text
            if text[edit.start : edit.end] != edit.text and not _joins_words(text, edit):
                line, reach = _lines(view, edit)
                yield Mutation(
                    path=view.source.path,
                    qualname=view.qualname,
                    operator=operator.name,
                    edit=edit,
                    line=line,
                    reach=reach,
                )


def _lines(view: FunctionView, edit: Edit) -> tuple[int, tuple[int, int]]:
    """Return an edit's line and the lines of the statement around it: of a compound one the header."""
    line = view.source.line_of(edit.start)
    body = view.node.body
    found: ast.stmt | ast.ExceptHandler | None = None
    for node in view.nodes(ast.stmt, ast.ExceptHandler):
        if node.lineno <= line <= (node.end_lineno or node.lineno):
            found = node  # the innermost comes last
    if found is None:  # a default of the function's own: any line of it may notice
        return line, (body[0].lineno, body[-1].end_lineno or body[-1].lineno)
    inner: Sequence[ast.stmt] = getattr(found, "body", ())
    last = inner[0].lineno - 1 if inner else found.end_lineno or found.lineno
    return line, (found.lineno, max(last, found.lineno))


def _joins_words(text: str, edit: Edit) -> bool:
    """Say whether the edit would make one word of two."""
    left, right = text[: edit.start][-1:], text[edit.end :][:1]
    seams = (left + edit.text[0], edit.text[-1] + right) if edit.text else (left + right,)
    return any(len(seam) == 2 and f"_{seam}".isidentifier() for seam in seams)


def _functions(
    source: Source, body: Sequence[ast.stmt], scope: tuple[str, ...], owner: ast.ClassDef | None
) -> Iterator[FunctionView]:
    for node in body:
        if isinstance(node, FunctionNode):
            yield FunctionView(source, node, ".".join((*scope, node.name)), owner)
        elif isinstance(node, ast.ClassDef):
            yield from _functions(source, node.body, (*scope, node.name), node)
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _functions(source, getattr(node, part, ()), scope, owner)
            for handler in getattr(node, "handlers", ()):
                yield from _functions(source, handler.body, scope, owner)


def _instructions(code: CodeType) -> tuple[object, ...]:
    """Return what a code object does, without where it stands."""
    constants = tuple(
        _instructions(value) if isinstance(value, CodeType) else (type(value), repr(value))
        for value in code.co_consts
    )
    names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
    return (
        code.co_name,
        code.co_code,
        constants,
        names,
        code.co_argcount,
        code.co_flags,
        code.co_exceptiontable,
    )
