"""`loopwright model search-window`: which layers of a dense model to loop, judged by solved tasks."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.exceptions import EnvironmentBrokenError, InputError

if TYPE_CHECKING:
    from model.window_search import Candidate, Found, Round

_UNSOLVED_CODES = (1, 3)  # of a command; 3 is `loopwright fix`'s
_NUM_SHOWN = 400  # characters of a failed command's last words


def search_window(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The dense checkpoint.")],
    evaluate: Annotated[
        str,
        typer.Option(
            help="Command that solves a task: exit code 0 solved, 1 or 3 not, any other ends the search. "
            "{task}, {checkpoint} (a folder with the loop in its config.json), {depth} and {loop_json} are "
            "replaced; no shell is involved.",
        ),
    ],
    tasks: Annotated[
        Path, typer.Option(exists=True, help="File with a task's name a line, or a folder of tasks.")
    ],
    results: Annotated[
        Path, typer.Option(help="Outcomes, one JSON line each; a search goes on from there.")
    ] = Path("window-search.jsonl"),
    widths: Annotated[str, typer.Option(help="Layers in a window: 2-6, or 4.")] = "2-6",
    depths: Annotated[str, typer.Option(help="Numbers of steps: 2-3, or 2.")] = "2-3",
    stride: Annotated[int, typer.Option(min=1, help="Layers between two windows.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the tasks' halves and of the bootstrap.")] = 0,
    task_timeout_seconds: Annotated[float, typer.Option(min=1, help="Not solved by then is unsolved.")] = 900,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search the layers to loop by solved tasks, and confirm the best window on tasks it has not seen."""
    from model import window_search
    from model.checkpoints.files import read_config_file
    from model.exceptions import ModelError

    def run(candidate: Candidate, task: str) -> float:
        with TemporaryDirectory(prefix="loopwright-window-") as folder:
            looped = _looped_checkpoint(checkpoint, candidate, Path(folder))
            return float(_is_solved(_command(evaluate, candidate, task, looped), task_timeout_seconds))

    try:
        num_layers = int(read_config_file(checkpoint).get("num_hidden_layers", 0))
        found = window_search.search(
            window_search.candidates(num_layers, widths=_span(widths), depths=_span(depths), stride=stride),
            _task_names(tasks),
            run,
            window_search.Outcomes(results, evaluate),
            seed=seed,
            on_round=_show_round,
        )
    except ModelError as exc:
        raise InputError(str(exc), hint=exc.hint) from exc
    typer.echo(json.dumps(_json(found), indent=2) if as_json else _verdict(found))


def _looped_checkpoint(checkpoint: Path, candidate: Candidate, folder: Path) -> Path:
    """Return a folder that is the checkpoint, by links, with the candidate's loop in its config."""
    from model.checkpoints.files import read_config_file
    from model.checkpoints.keys import LOOP_KEY

    for path in checkpoint.iterdir():
        if path.name != "config.json":
            (folder / path.name).symlink_to(path.resolve())
    config = {**read_config_file(checkpoint), LOOP_KEY: candidate.loop.to_json_dict()}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _command(template: str, candidate: Candidate, task: str, checkpoint: Path) -> list[str]:
    values = {
        "{task}": task,
        "{checkpoint}": str(checkpoint),
        "{depth}": str(candidate.depth),
        "{loop_json}": json.dumps(candidate.loop.to_json_dict()),
    }
    command = shlex.split(template)
    for name, value in values.items():
        command = [part.replace(name, value) for part in command]
    return command


def _is_solved(command: list[str], timeout_seconds: float) -> bool:
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    except OSError as exc:
        raise InputError(f"--evaluate cannot be run: {exc}") from exc
    try:
        _, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:  # with everything that it has started
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode == 0:
        return True
    if process.returncode in _UNSOLVED_CODES:
        return False
    raise EnvironmentBrokenError(
        f"--evaluate ended with exit code {process.returncode}: {errors.strip()[-_NUM_SHOWN:]}",
        hint="0 means solved, 1 and 3 not; outcomes so far are kept, and the search goes on from them.",
    )


def _task_names(path: Path) -> list[str]:
    if path.is_dir():
        return sorted(str(one) for one in path.iterdir())
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _span(text: str) -> range:
    low, _, high = text.partition("-")
    try:
        return range(int(low), int(high or low) + 1)
    except ValueError as exc:
        raise InputError(f"{text!r} is no number and no span", hint="Write 4, or 2-6.") from exc


def _show_round(one: Round) -> None:
    best = max(one.gains, key=one.gains.__getitem__)
    typer.echo(
        f"{one.num_tasks} tasks, {len(one.gains)} windows; best: {best}, {100 * one.gains[best]:+.1f} points",
        err=True,
    )


def _verdict(found: Found) -> str:
    gain = found.confirmed
    measured = (
        f"{100 * gain.value:+.1f} points [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}] over depth 1 "
        f"({100 * found.plain_solved:.1f} % solved), on {gain.num_tasks} tasks that the search did not see"
    )
    if found.is_gain:
        return f"{found.best.name}: {measured}\n{json.dumps(found.best.loop.to_json_dict())}"
    return f"no window is better than depth 1; the best, {found.best.name}: {measured}"


def _json(found: Found) -> dict[str, object]:
    return {
        "is_gain": found.is_gain,
        "best": {
            "name": found.best.name,
            "depth": found.best.depth,
            "loop": found.best.loop.to_json_dict(),
        },
        "confirmed": asdict(found.confirmed),
        "plain_solved": found.plain_solved,
        "rounds": [{"num_tasks": one.num_tasks, "gains": dict(one.gains)} for one in found.rounds],
    }
