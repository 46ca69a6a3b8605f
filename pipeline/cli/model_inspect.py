"""`loopwright model inspect`: what each loop of a checkpoint does to prompts, as numbers and plots."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from pipeline.exceptions import InputError

if TYPE_CHECKING:
    from model.config import LoopedConfig
    from model.exits import ExitRequest
    from model.inspection import Inspection

_MAX_TOKENS = 2048  # of a prompt: attention is kept whole, for each layer


def inspect(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A checkpoint's folder.")],
    prompt: Annotated[list[str], typer.Option(help="A prompt; more than one may be given.")],
    out: Annotated[Path, typer.Option(help="The page; the numbers stand beside it, as .json.")] = Path(
        "inspection.html"
    ),
    depth: Annotated[
        int | None, typer.Option(min=1, help="Loops; else what the checkpoint was trained with.")
    ] = None,
    exit_rule: Annotated[str | None, typer.Option(help="Rule to count exits by; else its own.")] = None,
    exit_threshold: Annotated[float | None, typer.Option(help="Its threshold.")] = None,
) -> None:
    """Measure what each loop and layer of a looped checkpoint does to prompts; write a page and the numbers.

    Runs the reference network in float32. Of int8 checkpoints the weights are read, not their arithmetic.
    """
    from model.exceptions import ModelError
    from model.inspection import render_page

    try:
        inspections = _inspect(checkpoint, prompt, depth, exit_rule, exit_threshold)
    except ModelError as exc:
        raise InputError(str(exc), hint=exc.hint) from exc
    numbers = out.with_suffix(".json")
    out.write_text(
        render_page(inspections, title="Loops of " + "/".join(checkpoint.resolve().parts[-2:])),
        encoding="utf-8",
    )
    numbers.write_text(
        json.dumps([one.to_json_dict() for one in inspections], indent=1) + "\n", encoding="utf-8"
    )
    for one in inspections:
        typer.echo(_summary(one))
    typer.echo(f"{out}\n{numbers}")


def _inspect(
    checkpoint: Path, prompts: list[str], depth: int | None, rule: str | None, threshold: float | None
) -> list[Inspection]:
    from transformers import AutoTokenizer

    from model.checkpoints.loading import load_network
    from model.inspection import inspect_network

    network = load_network(checkpoint)
    exit_request = _exit_request(network.config, rule, threshold)
    tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint)
    found = []
    for prompt in prompts:
        token_ids = list(tokenizer(prompt, add_special_tokens=False)["input_ids"])
        if not 0 < len(token_ids) <= min(_MAX_TOKENS, network.config.max_position_embeddings):
            raise InputError(f"a prompt has {len(token_ids)} tokens", hint=f"1 to {_MAX_TOKENS} can be shown")
        found.append(
            inspect_network(
                network,
                token_ids,
                depth=depth,
                exit_request=exit_request,
                prompt=prompt,
                decode=lambda token: repr(tokenizer.decode([token])),
            )
        )
    return found


def _exit_request(config: LoopedConfig, rule: str | None, threshold: float | None) -> ExitRequest | None:
    from model.config import ExitRule
    from model.exits import ExitRequest

    if rule is None and threshold is None:
        return None
    named = next((one for one in get_args(ExitRule) if one == (rule or config.exit_rule)), None)
    if named not in ("none", *config.exit_rules):
        can = ", ".join(("none", *config.exit_rules))
        raise InputError(f"{rule!r} is no exit rule of this checkpoint", hint=f"it can stop by: {can}")
    chosen = config.exit_threshold if threshold is None else threshold
    return ExitRequest(named, chosen, config.min_recurrence_depth)


def _summary(one: Inspection) -> str:
    stages = ", ".join(f"{loop.loop} {loop.stage}" for loop in one.loops)
    paths = ", ".join(
        f"{path.layer} {path.kind}" + (f" of {path.period}" if path.period else "")
        for path in one.trajectories
    )
    return f"{one.num_tokens} tokens, depth {one.depth}; loops: {stages}; layers: {paths}"
