"""Reads setup.cfg, the literals in setup.py, and pytest.ini."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Mapping
from typing import Any

from workers.environment.declared import Declared
from workers.environment.requirement_files import parse_lines

_MAX_NESTING = 20  # of names that stand for names in a setup.py


def read(declared: Declared) -> None:
    """Take what the files that came before pyproject.toml declare."""
    _read_setup_cfg(declared)
    _read_setup_py(declared)
    read_pytest_options(declared, "pytest.ini", "pytest")


def parsed_ini(declared: Declared, path: str) -> configparser.RawConfigParser | None:
    """Return a file of sections; None where it is missing or, with a warning, cannot be read."""
    text = declared.text(path)
    if text is None:
        return None
    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error as exc:
        declared.warnings.append(f"{path} cannot be read: {exc.message.splitlines()[0]}")
        return None
    return parser


def _read_setup_cfg(declared: Declared) -> None:
    parser = parsed_ini(declared, "setup.cfg")
    if parser is None:
        return
    name = parser.get("metadata", "name", fallback="")
    declared.name = declared.name or name
    declared.is_installable |= bool(name)
    declared.requires_python = declared.requires_python or parser.get(
        "options", "python_requires", fallback=""
    )
    declared.tiers["runtime"] += _listed(declared, parser.get("options", "install_requires", fallback=""))
    declared.tiers["build"] += _listed(declared, parser.get("options", "setup_requires", fallback=""))
    declared.tiers["test"] += _listed(declared, parser.get("options", "tests_require", fallback=""))
    if parser.has_section("options.extras_require"):
        for extra, lines in parser.items("options.extras_require"):
            declared.add_extra(extra, _listed(declared, lines))
    read_pytest_options(declared, "setup.cfg", "tool:pytest")


def _listed(declared: Declared, text: str) -> list[str]:
    if text.strip().startswith("file:"):
        paths = text.strip().removeprefix("file:").split(",")
        return [
            line for path in paths for line in parse_lines(declared, declared.text(path.strip()) or "", path)
        ]
    return parse_lines(declared, text.replace(";\n", "\n"), "setup.cfg")


def read_pytest_options(declared: Declared, path: str, section: str) -> None:
    """Take the options that a section of the file gives to pytest, and the plugins that it requires."""
    parser = parsed_ini(declared, path)
    if parser is not None:
        declared.pytest_options += " " + parser.get(section, "addopts", fallback="")
        declared.tiers["test"] += parser.get(section, "required_plugins", fallback="").split()


def _read_setup_py(declared: Declared) -> None:
    text = declared.text("setup.py")
    if text is None:
        return
    declared.is_installable = True
    try:
        arguments = setup_arguments(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        declared.warnings.append("setup.py cannot be parsed; its requirements are unknown")
        return
    declared.name = declared.name or _string(arguments.get("name"))
    declared.requires_python = declared.requires_python or _string(arguments.get("python_requires"))
    for key, tier in {
        "install_requires": "runtime",
        "setup_requires": "build",
        "tests_require": "test",
    }.items():
        declared.tiers[tier] += _lines(arguments.get(key))
    extras = arguments.get("extras_require")
    for extra, lines in extras.items() if isinstance(extras, dict) else ():
        if isinstance(extra, str):
            declared.add_extra(extra.partition(":")[0], _lines(lines))


def setup_arguments(source: str) -> dict[str, Any]:
    """Return the arguments of `setup()` that are literals, or names and sums of such. Runs nothing.

    Raises:
        SyntaxError, ValueError: the source cannot be parsed.
    """
    tree = ast.parse(source)
    names = {
        node.targets[0].id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }
    found: dict[str, Any] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_setup(node.func)):
        for keyword in call.keywords:
            values = {keyword.arg: keyword.value} if keyword.arg else _mapping(keyword.value, names)
            found |= {name: _value(node, names, 0) for name, node in values.items() if name}
    return found


def _is_setup(function: ast.expr) -> bool:
    return "setup" in (getattr(function, "id", ""), getattr(function, "attr", ""))


def _mapping(node: ast.expr, names: Mapping[str, ast.expr]) -> dict[str, ast.expr]:
    """Return the items of `**kwargs` in a call, where they are a literal."""
    node = names.get(node.id, node) if isinstance(node, ast.Name) else node
    if isinstance(node, ast.Dict):
        items = zip(node.keys, node.values, strict=True)
        return {
            key.value: value
            for key, value in items
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict":
        return {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
    return {}


def _value(node: ast.expr, names: Mapping[str, ast.expr], depth: int) -> Any:
    """Return what the expression says; None for anything that would have to be run."""
    if depth > _MAX_NESTING:
        return None
    if isinstance(node, ast.Name) and node.id in names:
        return _value(names[node.id], names, depth + 1)
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        parts = [
            _value(part.value if isinstance(part, ast.Starred) else part, names, depth + 1)
            for part in node.elts
        ]
        return [item for part in parts for item in (part if isinstance(part, list) else [part])]
    if isinstance(node, ast.Dict):
        pairs = ((key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None)
        return {str(_value(key, names, depth + 1)): _value(value, names, depth + 1) for key, value in pairs}
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = (_value(side, names, depth + 1) for side in (node.left, node.right))
        return _lines(left) + _lines(right)
    return node.value if isinstance(node, ast.Constant) else None


def _lines(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.splitlines()
    return (
        [item.strip() for item in value if isinstance(item, str) and item.strip()]
        if isinstance(value, list)
        else []
    )


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
