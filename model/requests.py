"""What a request may say of the loop: its depth, when to stop, whether it wants a report. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.config import ExitRule, LoopedConfig
from model.exceptions import DepthError

DEPTH_KEY = "recurrence_depth"  # in SamplingParams.extra_args and in HTTP's vllm_xargs
RULE_KEY = "exit_rule"
THRESHOLD_KEY = "exit_threshold"
REPORT_KEY = "loop_report"  # whether the answer comes with a report, and under which name


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopRequest:
    """What a request asks of the loop, defaults filled in."""

    recurrence_depth: int
    exit_rule: ExitRule
    exit_threshold: float
    wants_report: bool


def check_request(extra_args: Mapping[str, Any], max_depth: int, exit_rules: Sequence[str]) -> None:
    """Raise DepthError where the arguments ask for what a model of these limits cannot do."""
    if DEPTH_KEY in extra_args:
        check_depth(extra_args[DEPTH_KEY], max_depth)
    rule = extra_args.get(RULE_KEY)
    if rule is not None and rule != "none" and rule not in exit_rules:
        # In the message, since no hint arrives over HTTP.
        raise DepthError(f"{RULE_KEY} must be one of {', '.join(('none', *exit_rules))}, got {rule!r}")
    if THRESHOLD_KEY in extra_args:
        _check_threshold(extra_args[THRESHOLD_KEY], rule)
        if not exit_rules:
            raise DepthError(f"{THRESHOLD_KEY} has no meaning here: this model cannot stop early")
    report = extra_args.get(REPORT_KEY, False)
    if not (isinstance(report, int) and report in (False, True)):
        raise DepthError(f"{REPORT_KEY} must be true or false, got {report!r}")


def check_depth(value: object, max_recurrence_depth: int) -> int:
    """Return `value` as a depth.

    Raises:
        DepthError: it is no whole number from 1 to `max_recurrence_depth`; True, 2.0 and "2" are none.
    """
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= max_recurrence_depth:
        return value
    raise DepthError(
        f"{DEPTH_KEY} must be a whole number from 1 to {max_recurrence_depth}, got {value!r}",
        hint="Ask for a smaller depth, or start the engine with a larger max_recurrence_depth.",
    )


def _check_threshold(value: object, rule: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:  # type: ignore[operator]
        raise DepthError(f"{THRESHOLD_KEY} must be a number above 0, got {value!r}")
    if rule in ("hazard", "act") and value > 1:  # type: ignore[operator]
        raise DepthError(f"{THRESHOLD_KEY} of {rule} must be a probability above 0, got {value!r}")
    if rule == "argmax" and value != int(value):  # type: ignore[call-overload]
        raise DepthError(f"{THRESHOLD_KEY} of argmax must be a whole number of passes, got {value!r}")


def loop_request(extra_args: Mapping[str, Any] | None, config: LoopedConfig) -> LoopRequest:
    """Return what an admitted request asks for; the checkpoint's own settings where it names none."""
    given = extra_args or {}
    return LoopRequest(
        recurrence_depth=int(given.get(DEPTH_KEY, config.recurrence_depth)),
        exit_rule=given.get(RULE_KEY, config.exit_rule),
        exit_threshold=float(given.get(THRESHOLD_KEY, config.exit_threshold)),
        wants_report=bool(given.get(REPORT_KEY, False)),
    )


def cache_salt(config: LoopedConfig, request: LoopRequest) -> str:
    """Return what keeps prefix-cache blocks of different functions apart.

    Keys and values in the core and behind it depend on the loop's settings and on the depth. They depend on
    when rows stop, too, but where depths nest and states go on: there a row that stops is computed to its
    depth all the same. (A row that ACT halts keeps its state.)
    """
    settings = (config.step_rule, config.anchor_weight, config.kv_policy, config.later_attention)
    window = f"{config.core_start}-{config.core_stop}"
    stops_alike = request.exit_rule == "none" or (config.is_depth_nested and config.gate != "act")
    rule = "" if stops_alike else f":{request.exit_rule}{request.exit_threshold!r}"
    return f"loop:{window}:{settings}:depth{request.recurrence_depth}{rule}"
