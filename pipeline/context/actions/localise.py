"""Lets a model look around in the tree by so many actions at most, and ranks what it named and read first."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from pipeline.context.actions.action import ActionError
from pipeline.context.actions.sight import Sight
from pipeline.context.descent.spans import span_of
from pipeline.context.lexical import LexicalIndex
from pipeline.context.paid import paid
from pipeline.context.reading import Ending, Findings, Query, Span, Spend
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import BudgetSpentError, DeadlineError, Purse
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.core import Sampling
from pipeline.protocols import Generator

_MAX_SPANS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSettings:
    """How far the model may look around."""

    num_actions: int = 8
    num_mistakes: int = 1  # in a row; one more ends it
    max_tokens: int = 48  # of an action
    recurrence_depth: int = 1
    seed: int = 0


async def localise_by_actions(
    query: Query,
    tree: RepoTree,
    index: LexicalIndex,
    *,
    generator: Generator,
    purse: Purse,
    trace: Trace,
    settings: ActionSettings | None = None,
) -> Findings:
    """Return what a model finds by looking around: its places, then what it read, then what words find.

    Raises:
        GeneratorError: the engine failed.
        InputError: the server takes no grammar, or the state does not fit the model's window.
    """
    settings, begun_at = settings or ActionSettings(), time.monotonic()
    root = trace.add("question", query.text)
    sight = Sight(query, tree, index, trace, root)
    trace.add("plan", f"at most {settings.num_actions} calls of the model", parent=root)
    ending, spend = await _search(sight, generator, purse, trace, root, settings)
    return Findings(
        spans=_spans(sight),
        tier="actions",
        coverage=1.0,
        spend=replace(spend, seconds=time.monotonic() - begun_at),
        ending=ending,
    )


def _spans(sight: Sight) -> tuple[Span, ...]:
    spans = [span_of(unit, 1.0, ("named by the model",)) for unit in sight.done]
    spans += [span_of(unit, 0.5, ("read by the model",)) for unit in sight.read]
    spans += [span_of(one.unit, 0.0, one.evidence) for one in sight.ranked]
    unique: dict[tuple[str, str], Span] = {}
    for span in spans:
        unique.setdefault((span.path, span.node_id), span)
    return tuple(unique.values())[:_MAX_SPANS]


async def _search(
    sight: Sight, generator: Generator, purse: Purse, trace: Trace, root: int, settings: ActionSettings
) -> tuple[Ending, Spend]:
    spend, complaint, num_mistakes = Spend(), "", 0
    for _ in range(settings.num_actions):
        prompt = sight.prompt(complaint)
        sampling = Sampling(
            recurrence_depth=settings.recurrence_depth,
            max_tokens=settings.max_tokens,
            seed=settings.seed,
            grammar=sight.grammar,
        )
        try:
            completion, cost = await paid(generator, purse, prompt, sampling)
        except BudgetSpentError:
            return Ending.BUDGET_SPENT, spend
        except DeadlineError:
            return Ending.DEADLINE, spend
        spend += cost
        trace.add(
            "ask",
            "what to do next",
            parent=root,
            detail=completion.text,
            num_prompt_tokens=cost.num_prompt_tokens,
            num_completion_tokens=cost.num_completion_tokens,
            seconds=cost.seconds,
            is_cached=completion.is_cached,
        )
        try:
            complaint, goes_on = "", sight.act(completion.text)
            num_mistakes = 0
        except ActionError as exc:
            trace.add("error", str(exc), parent=root, detail=completion.text)
            complaint, goes_on, num_mistakes = str(exc), True, num_mistakes + 1
        if not goes_on:
            return Ending.COMPLETE, spend
        if num_mistakes > settings.num_mistakes:
            return Ending.GAVE_UP, spend
    return Ending.COMPLETE if sight.read else Ending.GAVE_UP, spend
