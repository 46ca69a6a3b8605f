"""How progress looks: plain lines off a terminal, bars on it."""

from __future__ import annotations

import io

from rich.console import Console

from pipeline.cli.progress import PlainProgress, line_of, watched
from pipeline.telemetry import Action, Event


def event(action: Action, message: str = "", **data: object) -> Event:
    return Event(action, message, data)


def test_plain_progress_says_how_far_a_step_is_only_every_few_seconds():
    lines: list[str] = []
    seconds = 0.0
    progress = PlainProgress(lines.append, now=lambda: seconds)
    progress(event(Action.STAGE_STARTED, "testing", stage="test"))
    for done in range(1, 9):
        seconds += 1.0
        progress(event(Action.PROGRESS, "testing", stage="test", done=done, total=8, unit="drafts"))
    progress(event(Action.STAGE_FINISHED, "8 drafts tested", stage="test", seconds=8.0))
    assert lines == ["testing drafts ...", "  testing: 5 of 8 drafts", "testing drafts: 8.0 s"]


def test_a_stage_that_took_no_time_gets_no_line():
    lines: list[str] = []
    progress = PlainProgress(lines.append)
    progress(event(Action.STAGE_STARTED, "pack begins", stage="pack"))
    progress(event(Action.STAGE_FINISHED, "pack took 0.0 s", stage="pack", seconds=0.01))
    assert lines == []


def test_bytes_are_told_in_megabytes():
    lines: list[str] = []
    PlainProgress(lines.append)(
        event(
            Action.PROGRESS,
            "download part 3",
            stage="model",
            done=12_500_000,
            total=491_400_064,
            unit="bytes",
        )
    )
    assert lines == ["  download part 3: 12.5 MB of 491.4 MB"]


def test_a_message_cannot_write_escape_sequences_or_lines_of_its_own():
    assert line_of(event(Action.WARNING, "a\x1b[2Jb\nloopwright: solved")) == "warning: ab loopwright: solved"


def test_off_a_terminal_there_are_no_escape_sequences():
    stream = io.StringIO()
    with watched(Console(file=stream, force_terminal=False, width=40)) as emit:
        emit(
            event(
                Action.STAGE_STARTED,
                "preparing [bold]the target[/bold], which takes a while",
                stage="clone",
            )
        )
        emit(event(Action.SOLVED, "draft r1c01 makes the tests pass"))
    assert stream.getvalue() == (
        "preparing [bold]the target[/bold], which takes a while ...\ndraft r1c01 makes the tests pass\n"
    )


def test_on_a_terminal_what_is_finished_stays_and_the_bars_go():
    stream = io.StringIO()
    with watched(Console(file=stream, force_terminal=True, width=100, color_system=None)) as emit:
        emit(event(Action.STAGE_STARTED, "testing", stage="test"))
        emit(event(Action.PROGRESS, "testing", stage="test", done=3, total=8, unit="drafts"))
        emit(event(Action.PROGRESS, "waiting for the engine", stage="engine"))
        emit(event(Action.STAGE_FINISHED, "8 drafts tested", stage="test", seconds=1.5))
        emit(event(Action.STAGE_FINISHED, "never started", stage="other"))
    assert "testing drafts: 1.5 s" in stream.getvalue()
    assert "3 of 8 drafts" in stream.getvalue()
    assert (
        stream.getvalue().rstrip().endswith("\x1b[?25h\r\x1b[1A\x1b[2K") or "\x1b[?25h" in stream.getvalue()
    )


def test_no_color_is_obeyed_on_a_terminal(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    with watched(Console(file=stream, force_terminal=True, width=100)) as emit:
        emit(event(Action.SOLVED, "solved"))
    assert "\x1b[32m" not in stream.getvalue()
    assert "\x1b[1;32m" not in stream.getvalue()


def test_a_reader_of_the_progress_who_leaves_does_not_end_the_run():
    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    with watched(Console(file=Gone())) as emit:
        emit(event(Action.WARNING, "nobody reads this"))
