"""T6: what exit rules promise, whatever the model."""

from __future__ import annotations

from model.config import ExitRule
from model.exits import ExitRequest
from model.testing.comparing import Finding, difference_of, prompt_of, require
from model.testing.under_test import LoopedModel

# Thresholds at which a rule never stops a row, and at which it stops every row as soon as it may.
_NEVER: dict[ExitRule, float] = {"hazard": 1.0, "act": 1.0, "latent": 0.0, "kl": 0.0, "argmax": 1e9}
_AT_ONCE: dict[ExitRule, float] = {"hazard": 0.0, "act": 0.0, "latent": 1e9, "kl": 1e9, "argmax": 0.0}
# Thresholds at which some rows stop early, and others do not, on networks that are not settled.
_BETWEEN: dict[ExitRule, tuple[float, ...]] = {
    "hazard": (0.5, 0.8),
    "act": (0.5, 0.8),
    "latent": (0.9, 0.3),
    "kl": (0.5, 0.05),
    "argmax": (1.0, 2.0),
}
_FIRST_COMPARABLE: dict[ExitRule, int] = {"kl": 2}  # it compares two read-outs


def exits_hold(model: LoopedModel, tolerance: float = 1e-4) -> Finding:
    """T6: each rule stops never or at once, as its threshold says, and not before `min_depth`; a token that
    stopped reads as a token of that depth; a prompt stops alike whole and token by token.
    """
    if not model.claims.exit_rules:
        return Finding("T6", skipped="the model has no exits")
    worst = 0.0
    for rule in model.claims.exit_rules:
        _check_rule_limits(model, rule)
        worst = max(worst, _check_stopped_reads_as_shallow(model, rule, tolerance))
        if model.claims.is_chunk_invariant:
            worst = max(worst, _check_exits_in_pieces(model, rule, tolerance))
    return Finding("T6", worst)


def _check_rule_limits(model: LoopedModel, rule: ExitRule) -> None:
    deepest = model.claims.max_depth
    earliest = min(max(_FIRST_COMPARABLE.get(rule, 1), model.claims.min_exit_depth), deepest)
    for threshold, min_depth, expected in (
        (_NEVER[rule], 1, deepest),
        (_AT_ONCE[rule], 1, earliest),
        (_AT_ONCE[rule], 2, max(earliest, min(2, deepest))),
    ):
        prompt = prompt_of(model, 5)
        exit_request = ExitRequest(rule, threshold, min_depth)
        found = model.begin(len(prompt)).feed(prompt, deepest, exit_request).depth_T
        require(
            set(found) == {expected},
            "T6",
            f"{rule} at threshold {threshold} and min_depth {min_depth} stopped at {found}, not {expected}",
        )


def _check_stopped_reads_as_shallow(model: LoopedModel, rule: ExitRule, tolerance: float) -> float:
    """Compare the last token, stopped by the rule, with the same token asked for that depth."""
    deepest, worst = model.claims.max_depth, 0.0
    prompt = prompt_of(model, 6)
    for min_depth in range(1, deepest + 1):
        exit_request = ExitRequest(rule, _AT_ONCE[rule], min_depth)
        stopped, asked = model.begin(len(prompt)), model.begin(len(prompt))
        stopped.feed(prompt[:-1], deepest)
        asked.feed(prompt[:-1], deepest)
        found = stopped.feed(prompt[-1:], deepest, exit_request)
        expected = asked.feed(prompt[-1:], found.depth_T[0])
        difference = difference_of(found.logits_TV, expected.logits_TV)
        require(
            difference <= tolerance,
            "T6",
            f"{rule}: stopped at {found.depth_T[0]}, a token differs by {difference:.2e} from that depth",
        )
        worst = max(worst, difference)
    return worst


def _check_exits_in_pieces(model: LoopedModel, rule: ExitRule, tolerance: float) -> float:
    """Compare a prompt whose tokens stop where they like with the same one token by token."""
    worst = 0.0
    for threshold in _BETWEEN[rule]:
        prompt, exit_request = prompt_of(model, 7), ExitRequest(rule, threshold)
        whole = model.begin(len(prompt)).feed(prompt, model.claims.max_depth, exit_request)
        pieces = model.begin(len(prompt))
        for i, token in enumerate(prompt):
            found = pieces.feed([token], model.claims.max_depth, exit_request)
            difference = difference_of(found.logits_TV[0], whole.logits_TV[i])
            require(
                found.depth_T[0] == whole.depth_T[i] and difference <= tolerance,
                "T6",
                f"{rule} at threshold {threshold} stopped token {i} at {found.depth_T[0]} alone and at "
                f"{whole.depth_T[i]} in the whole prompt; logits differ by {difference:.2e}",
            )
            worst = max(worst, difference)
    return worst
