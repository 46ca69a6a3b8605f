"""What `loopwright model probe` does: probes a model, and shows what is known of all that were probed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.telemetry import Emit

if TYPE_CHECKING:
    import typer

    from pipeline.ask.probe import Capability
    from pipeline.config import Settings


def run_probe(ctx: typer.Context, recurrence_depth: int) -> None:
    """Probe a model and keep what came of it.

    Raises:
        EnvironmentBrokenError: engine or sandbox failed.
        InputError: the depth is not servable.
    """
    from pipeline.ask.routing import keep
    from pipeline.cli.home import probes_path
    from pipeline.cli.inputs import Flags, resolve_settings
    from pipeline.cli.interrupt import run_interruptibly
    from pipeline.cli.progress import watched
    from pipeline.owner import owned_folder

    names = ("config", "model", "endpoint", "sandbox")
    values = {name: ctx.params[name] for name in names}
    settings = resolve_settings(Flags(**values, assignments=tuple(ctx.params["assignments"] or ())))
    with owned_folder("probe") as folder, watched() as emit:
        keep(probes_path(), run_interruptibly(_probe(settings, folder, recurrence_depth, emit)))


async def _probe(settings: Settings, folder: Path, recurrence_depth: int, emit: Emit) -> Capability:
    from pipeline.ask.probe import probed
    from pipeline.cli.compose import composed_generator, sandbox_edges

    sandbox, _ = await sandbox_edges(settings, emit)
    try:
        async with composed_generator(settings, emit) as generator:
            recurrence_depth = recurrence_depth or (await generator.info()).recurrence_depth
            return await probed(generator, sandbox, folder, recurrence_depth=recurrence_depth, emit=emit)
    finally:
        await sandbox.close()


def table(*, as_json: bool) -> str:
    """Return what is known of all models, as JSON or for people, with the tier that each gets and why."""
    from pipeline.ask.routing import kept_probes, route
    from pipeline.cli.home import probes_path
    from pipeline.text import duration

    known = list(kept_probes(probes_path()).values())
    if as_json:
        rows = [
            {**one.model_dump(), **dict(zip(("tier", "reason"), route(one), strict=True))} for one in known
        ]
        return json.dumps(rows, indent=2)
    lines = []
    for one in known:
        tier, reason = route(one)
        lines += [
            f"{one.model}, depth {one.recurrence_depth}: tier {tier}",
            f"  REPL {one.repl:.0%}, actions {one.actions:.0%}, words alone {one.words:.0%}, "
            f"yes/no AUC {one.auc:.2f}; probed in {duration(one.seconds)}",
            f"  why: {reason}",
        ]
    return "\n".join(lines) or "no model was probed yet"
