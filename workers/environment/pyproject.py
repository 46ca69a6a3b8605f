"""Reads pyproject.toml: the standard tables, and those of the tools that had their own before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from workers.environment.declared import Declared, tier_of
from workers.environment.requirement_files import lines_of


def read(declared: Declared) -> None:
    """Take what pyproject.toml declares."""
    document = declared.toml("pyproject.toml")
    if not document:
        return
    build = table_of(document, "build-system")
    declared.tiers["build"] += strings_of(build.get("requires"))
    _read_project(declared, table_of(document, "project"))
    _read_dynamic(declared, table_of(document, "tool", "setuptools", "dynamic"))
    _read_groups(declared, table_of(document, "dependency-groups"))
    _read_poetry(declared, table_of(document, "tool", "poetry"))
    _read_tools(declared, document)
    declared.is_installable = bool(build or declared.name)
    options = table_of(document, "tool", "pytest", "ini_options").get("addopts", "")
    plugins = table_of(document, "tool", "pytest", "ini_options").get("required_plugins", "")
    declared.pytest_options += " " + (
        " ".join(strings_of(options)) if isinstance(options, list) else str(options)
    )
    declared.tiers["test"] += strings_of(plugins) if isinstance(plugins, list) else str(plugins).split()


def _read_project(declared: Declared, project: Mapping[str, Any]) -> None:
    declared.name = str(project.get("name", ""))
    declared.requires_python = str(project.get("requires-python", ""))
    declared.tiers["runtime"] += strings_of(project.get("dependencies"))
    for name, lines in table_of(project, "optional-dependencies").items():
        declared.add_extra(name, strings_of(lines))


def _read_dynamic(declared: Declared, dynamic: Mapping[str, Any]) -> None:
    for path in _files(dynamic.get("dependencies")):
        declared.tiers["runtime"] += lines_of(declared, path)
    for name, source in table_of(dynamic, "optional-dependencies").items():
        declared.add_extra(name, [line for path in _files(source) for line in lines_of(declared, path)])


def _files(source: Any) -> list[str]:
    named = source.get("file") if isinstance(source, dict) else None
    return [named] if isinstance(named, str) else strings_of(named)


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
    declared.tiers["development"] += strings_of(table_of(document, "tool", "uv").get("dev-dependencies"))
    for name, lines in table_of(document, "tool", "pdm", "dev-dependencies").items():
        declared.add_group(name, strings_of(lines))
    for name, env in table_of(document, "tool", "hatch", "envs").items():
        if isinstance(env, dict) and (tier_of(name) or name == "default"):
            found = strings_of(env.get("dependencies")) + strings_of(env.get("extra-dependencies"))
            declared.tiers[tier_of(name) or "development"] += found
    flit = table_of(document, "tool", "flit", "metadata")
    declared.name = declared.name or str(flit.get("dist-name", flit.get("module", "")))
    declared.tiers["runtime"] += strings_of(flit.get("requires"))
    for name, lines in table_of(flit, "requires-extra").items():
        declared.add_extra(name, strings_of(lines))


def _read_poetry(declared: Declared, poetry: Mapping[str, Any]) -> None:
    declared.name = declared.name or str(poetry.get("name", ""))
    dependencies = table_of(poetry, "dependencies")
    python = specifier_of(str(dependencies.get("python", "*")))
    declared.requires_python = declared.requires_python or python
    optional = {
        name: spec for name, spec in dependencies.items() if isinstance(spec, dict) and spec.get("optional")
    }
    required = {name: spec for name, spec in dependencies.items() if name not in optional}
    declared.tiers["runtime"] += poetry_lines(required)
    for extra, members in table_of(poetry, "extras").items():
        chosen = {name: optional[name] for name in strings_of(members) if name in optional}
        declared.add_extra(extra, poetry_lines(chosen))
    declared.tiers["development"] += poetry_lines(table_of(poetry, "dev-dependencies"))
    for group, table in table_of(poetry, "group").items():
        if isinstance(table, dict):
            declared.add_group(group, poetry_lines(table_of(table, "dependencies")))


def poetry_lines(dependencies: Mapping[str, Any]) -> list[str]:
    """Return the requirements of a table of poetry's, or of pipenv's, which look alike."""
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
    extras = f"[{','.join(strings_of(spec.get('extras')))}]" if spec.get("extras") else ""
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


def table_of(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the table under the keys; an empty one where there is none."""
    for key in keys:
        value = document.get(key)
        if not isinstance(value, dict):
            return {}
        document = value
    return document


def strings_of(value: Any) -> list[str]:
    """Return the strings of a list; none where it is something else."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []
