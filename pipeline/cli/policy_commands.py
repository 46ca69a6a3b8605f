"""`loopwright policy`: the order of escalation, and what past verdicts say of each of its arms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.home import outcomes_path
from pipeline.exceptions import InputError
from pipeline.text import printable

if TYPE_CHECKING:
    from pipeline.config import Rung
    from pipeline.policy.arms import ArmStats

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="Show and feed what chooses the next round."
)

_ConfigOption = Annotated[
    str | None, typer.Option(metavar="FILE", help="Settings: a YAML file, `fast`, `thorough`.")
]


@app.command("show")
def show(
    model: Annotated[str | None, typer.Option(help="One model only; else each that was used.")] = None,
    config: _ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show the ladder, and of each rung how often it was tried, what it solved, and what that cost."""
    from pipeline.cli.inputs import Flags, resolve_settings
    from pipeline.policy.store import OutcomeStore

    planner = resolve_settings(Flags(config=config)).planner
    store = OutcomeStore(outcomes_path())
    models = [model] if model else store.models() or [""]
    ladders = {name: [rung.at_own_depth(_own_depth(name)) for rung in planner.ladder] for name in models}
    answer = {
        "policy": planner.policy,
        "outcomes": str(store.path),
        "models": {name: _rows(ladder, _stats(ladder, store, name)) for name, ladder in ladders.items()},
    }
    typer.echo(json.dumps(answer, indent=1) if as_json else _table(answer))


@app.command("learn")
def learn(
    folders: Annotated[list[Path], typer.Argument(help="Run folders, or folders that hold some.")],
) -> None:
    """Take what finished runs came to into the statistics; what is there already is not counted twice."""
    from pipeline.policy.store import OutcomeStore
    from pipeline.runs import RunFolder

    found = [path.parent for folder in folders for path in sorted(folder.rglob("trajectory.json"))]
    if not found:
        raise InputError(
            f"no run lies under {', '.join(map(str, folders))}", hint="see `loopwright runs list`"
        )
    store = OutcomeStore(outcomes_path())
    num_added = 0
    for path in found:
        try:
            num_added += store.add(RunFolder(path).load())
        except InputError as exc:
            typer.echo(f"warning: {printable(str(exc))}", err=True)
    typer.echo(f"{num_added} rounds of {len(found)} runs added to {store.path}")


def _own_depth(model: str) -> int:
    """Return the depth that a checkpoint folder was trained for; 1 where this is none."""
    from model.checkpoints import read_config
    from model.checkpoints.files import read_config_file
    from model.exceptions import ModelError

    try:
        return read_config(read_config_file(Path(model))).recurrence_depth
    except ModelError:
        return 1


def _stats(ladder: Sequence[Rung], store: Any, model: str) -> list[ArmStats]:
    from pipeline.policy.arms import stats_of

    return stats_of(ladder, store.load(model))


def _rows(ladder: Sequence[Rung], stats: Sequence[ArmStats]) -> list[dict[str, Any]]:
    """Return a row for each rung and place, opening a run or later in it."""
    from pipeline.policy.arms import arm_name
    from pipeline.policy.choice import estimate

    rows = []
    for number, (rung, arm) in enumerate(zip(ladder, stats, strict=True), start=1):
        for place in ("first", "later"):
            tally = arm.tally(is_first=place == "first")
            believed = estimate(rung, tally)
            rows.append(
                {
                    "rung": number,
                    "arm": arm_name(rung),
                    "place": place,
                    **tally.model_dump(),
                    "solve_rate": round(believed.solve_rate, 4),
                    "interval_90": [round(believed.low, 4), round(believed.high, 4)],
                    "tokens_per_round": round(believed.tokens_per_round),
                    "solved_per_1000_tokens": round(believed.solved_per_1000_tokens, 4),
                }
            )
    return rows


def _table(answer: dict[str, Any]) -> str:
    order = {
        "ladder": "rungs are climbed in their order (planner.policy = ladder)",
        "learned": "the rung that promises most is climbed next (planner.policy = learned)",
    }
    lines = [order[answer["policy"]]]
    for model, rows in answer["models"].items():
        lines += ["", f"model: {printable(model) or 'none was used yet; what is believed beforehand'}"]
        lines.append(
            f"{'RUNG':4} {'AS':5} {'TRIED':>5} {'SOLVED':>6} {'RATE, 90 %':>20} {'PER 1000 TOKENS':>15}  ARM"
        )
        lines += [_line(row) for row in rows]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    low, high = row["interval_90"]
    rate = f"{row['solve_rate']:.2f} ({low:.2f} to {high:.2f})"
    counts = f"{row['num_tried']:>5} {row['num_solved']:>6}"
    promise = f"{row['solved_per_1000_tokens']:>15.2f}"
    return f"{row['rung']:<4} {row['place']:5} {counts} {rate:>20} {promise}  {row['arm']}"
