"""What a function must take, read from how it is called."""

from __future__ import annotations

import ast
import keyword
from collections.abc import Sequence

OPEN = "*args, **kwargs"  # whoever writes the function decides what it takes
_NAMES: tuple[tuple[tuple[type, ...], str], ...] = (
    ((str,), "text"),
    ((bytes,), "data"),
    ((bool,), "flag"),
    ((int, float, complex), "value"),
)


def parameters_of(calls: Sequence[ast.Call]) -> str:
    """Return parameters with which all these calls work, as code; open ones where the calls do not tell.

    What some call leaves out has the default None. Names come from keywords, else from the arguments.
    """
    plain = [call for call in calls if not _is_spread(call)]
    if not plain:
        return OPEN
    counts = [len(call.args) for call in plain]
    named = _positions_of_keywords(plain, max(counts))
    if max(counts) - min(counts) >= 2 and not named:
        return ", ".join([*_names(plain, min(counts), named), "*args"])
    names = _names(plain, max(counts), named)
    others = [name for name in _keywords(plain) if name not in names]
    found, has_default = list[str](), False
    for position, name in enumerate([*names, *others]):
        is_always_given = all(
            (position < len(names) and len(call.args) > position) or name in _keywords([call])
            for call in plain
        )
        has_default = has_default or not is_always_given
        found.append(f"{name}=None" if has_default else name)
    return ", ".join(found)


def _is_spread(call: ast.Call) -> bool:
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    return starred or any(part.arg is None for part in call.keywords)


def _keywords(calls: Sequence[ast.Call]) -> list[str]:
    return list(dict.fromkeys(part.arg for call in calls for part in call.keywords if part.arg))


def _positions_of_keywords(calls: Sequence[ast.Call], num_positions: int) -> dict[int, str]:
    """Return which positional parameters the keywords of other calls name."""
    found: dict[int, str] = {}
    for name in _keywords(calls):
        after = max(len(call.args) for call in calls if name in _keywords([call]))
        free = [i for i in range(after, num_positions) if i not in found]
        if free:
            found[free[0]] = name
    return found


def _names(calls: Sequence[ast.Call], num_positions: int, named: dict[int, str]) -> list[str]:
    names: list[str] = []
    for position in range(num_positions):
        arguments = [call.args[position] for call in calls if len(call.args) > position]
        name = named.get(position) or _name_of(arguments)
        taken = {*names, *named.values()} - {named.get(position, "")}
        number = next(n for n in range(1, len(taken) + 2) if f"{name}{n if n > 1 else ''}" not in taken)
        names.append(f"{name}{number if number > 1 else ''}")
    return names


def _name_of(arguments: Sequence[ast.expr]) -> str:
    for argument in arguments:
        if isinstance(argument, ast.Name) and argument.id.islower() and not keyword.iskeyword(argument.id):
            return argument.id
    for argument in arguments:
        if isinstance(argument, ast.List | ast.Tuple | ast.Set | ast.ListComp):
            return "items"
        if isinstance(argument, ast.Dict):
            return "mapping"
        if isinstance(argument, ast.Lambda):
            return "function"
        if isinstance(argument, ast.Constant):
            return next((name for kinds, name in _NAMES if isinstance(argument.value, kinds)), "value")
    return "value"
