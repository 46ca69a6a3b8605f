"""Reads pyproject.toml: the standard tables, and those of the tools that had their own before."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from workers.environment.declared import Declared, tier_of
from workers.environment.requirement_files import lines_of

_PATH = "pyproject.toml"


def read(declared: Declared) -> None:
    """Take what pyproject.toml declares."""
    text = declared.text(_PATH)
    if text is None:
        return
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        declared.warnings.append(f"{_PATH} cannot be read: {exc}")
        return
    build = _table(document, "build-system")
    declared.tiers["build"] += _strings(build.get("requires"))
    _read_project(declared, _table(document, "project"))
    _read_dynamic(declared, _table(document, "tool", "setuptools", "dynamic"))
    _read_groups(declared, _table(document, "dependency-groups"))
    _read_poetry(declared, _table(document, "tool", "poetry"))
    _read_tools(declared, document)
    declared.is_installable = bool(build or declared.name)
    options = _table(document, "tool", "pytest", "ini_options").get("addopts", "")
    plugins = _table(document, "tool", "pytest", "ini_options").get("required_plugins", "")
    declared.pytest_options += " " + (
        " ".join(_strings(options)) if isinstance(options, list) else str(options)
    )
    declared.tiers["test"] += _strings(plugins) if isinstance(plugins, list) else str(plugins).split()


def _read_project(declared: Declared, project: Mapping[str, Any]) -> None:
    declared.name = str(project.get("name", ""))
    declared.requires_python = str(project.get("requires-python", ""))
    declared.tiers["runtime"] += _strings(project.get("dependencies"))
    for name, lines in _table(project, "optional-dependencies").items():
        declared.add_extra(name, _strings(lines))


def _read_dynamic(declared: Declared, dynamic: Mapping[str, Any]) -> None:
    for path in _files(dynamic.get("dependencies")):
        declared.tiers["runtime"] += lines_of(declared, path)
    for name, source in _table(dynamic, "optional-dependencies").items():
        declared.add_extra(name, [line for path in _files(source) for line in lines_of(declared, path)])


def _files(source: Any) -> list[str]:
    named = source.get("file") if isinstance(source, dict) else None
    return [named] if isinstance(named, str) else _strings(named)


def _read_groups(declared: Declared, groups: Mapping[str, Any]) -> None:
    for name in groups:
        declared.add_group(name, _group(groups, name, frozenset()))


def _group(groups: Mapping[str, Any], name: str, within: frozenset[str]) -> Iterator[str]:
    """Yield a PEP 735 group with the groups that it includes."""
    members = groups.get(name)
    for member in members if isinstance(members, list) and name not in within else ():
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict):
            yield from _group(groups, str(member.get("include-group")), within | {name})


def _read_tools(declared: Declared, document: Mapping[str, Any]) -> None:
    declared.tiers["development"] += _strings(_table(document, "tool", "uv").get("dev-dependencies"))
    for name, lines in _table(document, "tool", "pdm", "dev-dependencies").items():
        declared.add_group(name, _strings(lines))
    for name, env in _table(document, "tool", "hatch", "envs").items():
        if isinstance(env, dict) and (tier_of(name) or name == "default"):
            found = _strings(env.get("dependencies")) + _strings(env.get("extra-dependencies"))
            declared.tiers[tier_of(name) or "development"] += found
    flit = _table(document, "tool", "flit", "metadata")
    declared.name = declared.name or str(flit.get("dist-name", flit.get("module", "")))
    declared.tiers["runtime"] += _strings(flit.get("requires"))
    for name, lines in _table(flit, "requires-extra").items():
        declared.add_extra(name, _strings(lines))


def _read_poetry(declared: Declared, poetry: Mapping[str, Any]) -> None:
    declared.name = declared.name or str(poetry.get("name", ""))
    dependencies = _table(poetry, "dependencies")
    optional = {
        name: spec for name, spec in dependencies.items() if isinstance(spec, dict) and spec.get("optional")
    }
    required = {name: spec for name, spec in dependencies.items() if name not in optional}
    declared.tiers["runtime"] += _poetry_lines(required)
    for extra, members in _table(poetry, "extras").items():
        chosen = {name: optional[name] for name in _strings(members) if name in optional}
        declared.add_extra(extra, _poetry_lines(chosen))
    declared.tiers["development"] += _poetry_lines(_table(poetry, "dev-dependencies"))
    for group, table in _table(poetry, "group").items():
        if isinstance(table, dict):
            declared.add_group(group, _poetry_lines(_table(table, "dependencies")))


def _poetry_lines(dependencies: Mapping[str, Any]) -> list[str]:
    return [
        line
        for name, spec in dependencies.items()
        if name.lower() != "python"
        for one in (spec if isinstance(spec, list) else [spec])
        for line in _poetry_line(name, one)
    ]


def _poetry_line(name: str, spec: Any) -> Iterator[str]:
    if isinstance(spec, str):
        spec = {"version": spec}
    if not isinstance(spec, dict):
        return
    source = next((spec[key] for key in ("git", "url", "path") if key in spec), None)
    if source is not None:
        yield f"{name} @ {source}"  # the caller leaves it out, with a warning
        return
    extras = f"[{','.join(_strings(spec.get('extras')))}]" if spec.get("extras") else ""
    python = specifier_of(str(spec.get("python", "*")))
    markers = [f"python_full_version {clause}" for clause in _marker_clauses(python)]
    if spec.get("markers"):
        markers.append(f"({spec['markers']})")
    suffix = f" ; {' and '.join(markers)}" if markers else ""
    yield f"{name}{extras}{specifier_of(str(spec.get('version', '*')))}{suffix}"


def _marker_clauses(specifier: str) -> list[str]:
    found = re.findall(r"(===?|~=|!=|<=|>=|<|>)\s*([^,\s]+)", specifier)
    return [f"{operator} '{version}'" for operator, version in found]


def specifier_of(constraint: str) -> str:
    """Return the PEP 440 specifier of a poetry constraint; "" (any) for a union, which has none."""
    if "|" in constraint:
        return ""
    return ",".join(
        filter(None, (_clause(part.strip()) for part in re.split(r"[,\s]+(?=[\^~<>=!\d*])", constraint)))
    )


def _clause(part: str) -> str:
    if part in ("", "*"):
        return ""
    if part.startswith("^") or (part.startswith("~") and not part.startswith("~=")):
        return _range(part[0], part[1:].strip())
    return part if part[0] in "<>=!~" else f"=={part}"


def _range(kind: str, version: str) -> str:
    release = [
        int(number) for number in re.findall(r"\d+", version.split("-")[0].split("a")[0].split("b")[0])
    ]
    if kind == "~":
        fixed = min(len(release), 2)
    else:
        fixed = next((i + 1 for i, number in enumerate(release) if number), len(release))
    upper = [*release[: fixed - 1], release[fixed - 1] + 1]
    return f">={version},<{'.'.join(map(str, upper))}"


def _table(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    for key in keys:
        value = document.get(key)
        if not isinstance(value, dict):
            return {}
        document = value
    return document


def _strings(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
