"""What the gates ask of Python text: does it parse, can its callers live with it, is it the same program."""

from __future__ import annotations

import ast
import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from functools import lru_cache

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Module

# What the parser and the compiler raise on text that nobody checked.
PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError)


def parse(text: str) -> ast.Module:
    """Parse without warnings.

    Raises:
        PARSE_ERRORS: the text is no Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def compile_error(data: bytes, path: str) -> str:
    """Return why the file does not compile, or an empty string. Nothing is run; no Python compiles always."""
    if not path.endswith(".py"):
        return ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(data, path, "exec", dont_inherit=True)
    except SyntaxError as exc:
        return f"{type(exc).__name__}: {exc.msg} (line {exc.lineno})"
    except PARSE_ERRORS as exc:
        return f"{type(exc).__name__}: {exc}"
    return ""


@lru_cache(maxsize=16)  # the base is asked for with every candidate, and each candidate more than once
def parts(data: bytes) -> tuple[tuple[str, Function, str], ...]:
    """Return the functions of a file with their names and dumps, without docstrings, and last the rest of it.

    Nested functions are inside theirs. Of a name that is defined again (a property's setter) each has its
    number. The rest has no name; what was taken out of it left a `pass` behind. Nobody may change the trees.

    Raises:
        PARSE_ERRORS: the data is no Python.
    """
    tree = without_docstrings(ast.parse(data))
    found: list[tuple[str, Function, str]] = []
    seen: Counter[str] = Counter()
    for name, node in [*_taken_out(tree, ""), ("", tree)]:
        seen[name] += 1
        found.append((f"{name}#{seen[name]}" if seen[name] > 1 else name, node, ast.dump(node)))
    return tuple(found)


def _taken_out(node: ast.Module | ast.ClassDef, prefix: str) -> list[tuple[str, Function]]:
    found: list[tuple[str, Function]] = []
    for i, child in enumerate(node.body):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            found.append((prefix + child.name, child))
            node.body[i] = ast.Pass()
        elif isinstance(child, ast.ClassDef):
            found += _taken_out(child, f"{prefix}{child.name}.")
    return found


@lru_cache(maxsize=64)
def fingerprint(path: str, data: bytes) -> str:
    """Return a hash of the program without docstrings, comments and layout; of the bytes if it is none."""
    try:
        body = "\0".join(dump for _, _, dump in parts(data))
    except PARSE_ERRORS:
        body = repr(data)
    return hashlib.sha256(f"{path}\0{body}".encode("utf-8", "surrogatepass")).hexdigest()


def program_fingerprint(files: Mapping[str, bytes], base: Callable[[str], bytes]) -> str:
    """Return a hash of the program that these changed files make; `base` gives a file as it was."""
    marks = (fingerprint(path, files[path]) for path in sorted(files) if _is_changed(path, files[path], base))
    return hashlib.sha256("".join(marks).encode()).hexdigest()


def changes_program(files: Mapping[str, bytes], base: Callable[[str], bytes]) -> bool:
    """Say whether any of the files is another program than it was: not only layout, comments, docstrings."""
    return any(_is_changed(path, data, base) for path, data in files.items())


def edit_size(old: bytes, new: bytes) -> int:
    """Return the number of AST nodes that only one of the files has: how much of the program changed."""
    before, after = _node_counts(old), _node_counts(new)
    return ((before - after) + (after - before)).total()


def first_definition(text: str) -> Definition | None:
    """Return the definition that the text begins with, or None where it is not one or does not parse."""
    try:
        body = parse(text).body
    except PARSE_ERRORS:
        return None
    return body[0] if body and isinstance(body[0], Definition) else None


def incompatibility(old: Definition, new: Definition) -> str:
    """Return how callers of the old definition would break, or an empty string."""
    if isinstance(old, ast.ClassDef) or isinstance(new, ast.ClassDef):
        return _class_incompatibility(old, new)
    if type(old) is not type(new):
        return "it changes between def and async def"
    return _signature_incompatibility(old.args, new.args)


def has_body(definition: Definition) -> bool:
    """Say whether the definition does more than pass, `...` or a docstring."""
    return not all(
        isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
        for node in definition.body
    )


def _is_changed(path: str, data: bytes, base: Callable[[str], bytes]) -> bool:
    return fingerprint(path, data) != fingerprint(path, base(path))


def _class_incompatibility(old: Definition, new: Definition) -> str:
    if not (isinstance(old, ast.ClassDef) and isinstance(new, ast.ClassDef)):
        return "it changes between a class and a function"
    if [ast.dump(base) for base in old.bases] != [ast.dump(base) for base in new.bases]:
        return "it changes the base classes"
    missing = _method_names(old) - _method_names(new)
    return f"it leaves out the method {min(missing)}" if missing else ""


def _method_names(node: ast.ClassDef) -> set[str]:
    return {n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def _signature_incompatibility(old: ast.arguments, new: ast.arguments) -> str:
    before = [a.arg for a in old.posonlyargs + old.args]
    after = [a.arg for a in new.posonlyargs + new.args]
    if after[: len(before)] != before:
        return f"it changes the parameters ({', '.join(before)}) to ({', '.join(after)})"
    if len(after) - len(new.defaults) > max(len(before) - len(old.defaults), 0):
        return "it requires a parameter that callers need not give"
    if missing := {a.arg for a in old.kwonlyargs} - {a.arg for a in new.kwonlyargs}:
        return f"it leaves out the parameter {min(missing)}"
    if extra := _required_keywords(new) - _required_keywords(old):
        return f"it requires the parameter {min(extra)}"
    for mark, first, second in (("*", old.vararg, new.vararg), ("**", old.kwarg, new.kwarg)):
        if first is not None and (second is None or first.arg != second.arg):
            return f"it leaves out {mark}{first.arg}"
    return ""


def _required_keywords(args: ast.arguments) -> set[str]:
    pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    return {arg.arg for arg, default in pairs if default is None}


def without_docstrings(tree: ast.Module) -> ast.Module:
    """Take the docstrings out of the tree, which is returned."""
    for node in ast.walk(tree):
        if isinstance(node, Definition | ast.Module) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree


def _node_counts(data: bytes) -> Counter[str]:
    try:
        return Counter(_label(node) for node in ast.walk(ast.parse(data)))
    except PARSE_ERRORS:
        return Counter()


def _label(node: ast.AST) -> str:
    names = [getattr(node, field, None) for field in ("id", "attr", "arg", "name", "value", "n")]
    return type(node).__name__ + repr([name for name in names if isinstance(name, str | int | float)])
