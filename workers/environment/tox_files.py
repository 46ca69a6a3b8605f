"""Reads what tox installs beside the project: tox.ini, tox.toml and the tables of tox in pyproject.toml."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterable, Mapping
from typing import Any

from workers.environment.declared import Declared
from workers.environment.pyproject import strings_of, table_of
from workers.environment.requirement_files import parse_lines
from workers.environment.setup_files import parsed_ini, read_pytest_options

_HERE = re.compile(r"\{(toxinidir|tox_root)\}/")


def read(declared: Declared) -> None:
    """Take the requirements of tox's default environment."""
    ini = parsed_ini(declared, "tox.ini")
    if ini is not None:
        read_pytest_options(declared, "tox.ini", "pytest")
        _read_ini(declared, ini)
    tool = table_of(declared.toml("pyproject.toml"), "tool", "tox")
    legacy = configparser.RawConfigParser(strict=False)
    try:
        legacy.read_string(str(tool.get("legacy_tox_ini", "")))
    except configparser.Error as exc:
        declared.warnings.append(f"legacy_tox_ini cannot be read: {exc.message.splitlines()[0]}")
    _read_ini(declared, legacy)
    for table in (declared.toml("tox.toml"), tool):
        _read_table(declared, table_of(table, "env_run_base"))


def _read_ini(declared: Declared, ini: configparser.RawConfigParser) -> None:
    _take_deps(declared, ini.get("testenv", "deps", fallback="").splitlines())
    _take_extras(declared, re.split(r"[\s,]+", ini.get("testenv", "extras", fallback="").strip()))


def _read_table(declared: Declared, table: Mapping[str, Any]) -> None:
    _take_deps(declared, strings_of(table.get("deps")))
    _take_extras(declared, strings_of(table.get("extras")))


def _take_deps(declared: Declared, lines: Iterable[str]) -> None:
    for line in lines:
        # "py36,py37: mock" holds for some interpreters only; "{[other]deps}" refers to a section.
        requirement = re.sub(r"^[\w.{},!-]+:\s+", "", _HERE.sub("", line.strip()))
        if requirement and "{" not in requirement:
            declared.tiers["development"] += parse_lines(declared, requirement, "tox.ini")


def _take_extras(declared: Declared, names: Iterable[str]) -> None:
    for name in names:
        declared.tiers["test"] += declared.extra_lines(name) if name else []
