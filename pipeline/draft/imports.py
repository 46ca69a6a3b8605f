"""Adds the imports that an answer needs and its file has not, and tells the names that nothing can bind."""

from __future__ import annotations

import ast
import builtins
import re
import sys
from collections.abc import Iterator
from functools import lru_cache

from pipeline.draft.source import Edit, apply_edit, dedent
from pipeline.draft.syntax import PARSE_ERRORS, parse

# Names that are used bare, and where they come from.
_WELL_KNOWN = {
    name: module
    for module, names in {
        "collections": "defaultdict deque namedtuple Counter OrderedDict ChainMap",
        "collections.abc": "Callable Generator Hashable Iterable Iterator Mapping MutableMapping Sequence",
        "contextlib": "contextmanager suppress",
        "copy": "deepcopy",
        "dataclasses": "dataclass",
        "datetime": "timedelta timezone",
        "decimal": "Decimal",
        "enum": "Enum IntEnum",
        "fractions": "Fraction",
        "functools": "cmp_to_key lru_cache partial reduce wraps",
        "itertools": "accumulate chain combinations groupby islice permutations takewhile zip_longest",
        "math": "ceil floor gcd isclose isnan log log10 sqrt",
        "operator": "attrgetter itemgetter",
        "pathlib": "Path PurePath",
        "typing": "Any Dict List Optional Set Tuple Type TypeVar Union",
    }.items()
    for name in names.split()
}
_WORD = re.compile(r"\w+")
_STAR_IMPORT = re.compile(rb"^[ \t]*from[ \t]+[\w.]+[ \t]+import[ \t]*\*", re.MULTILINE)
_IMPORTABLE = frozenset(sys.stdlib_module_names) | frozenset(_WELL_KNOWN)


def with_missing_imports(data: bytes, base: bytes, answer: str) -> bytes:
    """Return the edited file with imports for the names that the edit brought in and nothing binds.

    They come from the answer's own imports, else from the standard library. `base`: the file before.
    """
    words = set(_WORD.findall(answer)) | {word.decode() for word in _words(data) - _words(base)}
    if "import" not in words and (words - _names_in(base)[1]).isdisjoint(_IMPORTABLE):
        return data  # as most edits: a large file takes long to parse
    try:
        tree = ast.parse(data)
        missing = _unbound(*_names(tree)) - _unbound(*_names_in(base))
    except PARSE_ERRORS:
        return data
    offered = dict(_imports_in(answer)) if missing else {}
    lines = dict.fromkeys(filter(None, (_import_of(name, offered, tree) for name in sorted(missing))))
    if not lines:
        return data
    place = _place(tree, data)
    text = "".join(f"{line}\n" for line in lines)
    return apply_edit(data, Edit(path="", start_line=place + 1, end_line=place, text=text))


def unbound_names(definition: str, base: bytes, answer: str = "") -> list[str]:
    """Return the names that the definition reads and nothing binds: it would end in a NameError.

    A word anywhere in the file, as it was, lets a name pass, so does what `answer` or a star import brings.

    Raises:
        PARSE_ERRORS: the definition is no Python.
    """
    if _STAR_IMPORT.search(base):
        return []
    read, bound = _names(parse(dedent(definition)))
    known = _IMPORTABLE | {name for name, _ in _imports_in(answer)}
    return sorted(name for name in read - bound - known if name.encode() not in _words(base))


def _import_of(name: str, offered: dict[str, str], tree: ast.Module) -> str:
    if name in offered:
        return offered[name]
    if name in sys.stdlib_module_names and _is_used_as_module(name, tree):
        return f"import {name}"
    return f"from {_WELL_KNOWN[name]} import {name}" if name in _WELL_KNOWN else ""


@lru_cache(maxsize=16)  # the base is asked for with every candidate
def _words(data: bytes) -> frozenset[bytes]:
    return frozenset(re.findall(rb"[A-Za-z_]\w*", data))


@lru_cache(maxsize=16)
def _names_in(data: bytes) -> tuple[frozenset[str], frozenset[str]]:
    try:
        return _names(ast.parse(data))
    except PARSE_ERRORS:
        return frozenset(), frozenset()


def _unbound(read: frozenset[str], bound: frozenset[str]) -> frozenset[str]:
    """Return the names that no scope of the file binds; none where a star import may bind them."""
    return frozenset() if "*" in bound else read - bound


def _names(tree: ast.Module) -> tuple[frozenset[str], frozenset[str]]:
    """Return the names that are read, and those that any scope of the file binds."""
    read, bound = set[str](), set(dir(builtins)) | {"__file__", "__path__", "__class__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (read if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        bound.update(_bound_by(node))
    return frozenset(read), frozenset(bound)


def _bound_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.alias(name=name, asname=other):
            yield other or name.partition(".")[0]
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name


def _is_used_as_module(name: str, tree: ast.Module) -> bool:
    used = (node.value for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return any(isinstance(value, ast.Name) and value.id == name for value in used)


def _imports_in(answer: str) -> Iterator[tuple[str, str]]:
    """Yield each name that the answer imports at its top level, with a statement that imports it alone."""
    for line in answer.splitlines():
        if not line.startswith(("import ", "from ")) or line.startswith("from ."):
            continue
        try:
            [statement] = parse(line).body
        except (*PARSE_ERRORS, ValueError):
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for alias in statement.names:
                alone = type(statement)(**{**vars(statement), "names": [alias]})
                yield alias.asname or alias.name.partition(".")[0], ast.unparse(alone)


def _place(tree: ast.Module, data: bytes) -> int:
    """Return the line behind which imports go: the imports at the top, else a docstring, else comments."""
    place = 0
    for number, node in enumerate(tree.body):
        is_docstring = number == 0 and ast.get_docstring(tree, clean=False) is not None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            break
        if is_docstring or isinstance(node, ast.Import | ast.ImportFrom):
            place = node.end_lineno or 0
    if place:
        return place
    lines = data.split(b"\n")
    return next((n for n, line in enumerate(lines) if not line.startswith((b"#", b"\xef\xbb\xbf#"))), 0)
