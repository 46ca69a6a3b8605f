"""What `ask` promises: any source, a tier that fits, an answer with its places, and an account of it."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from pipeline.account import branches_of, tree_of
from pipeline.ask.page import render_reading
from pipeline.ask.reader import Desk, opened, read
from pipeline.ask.source import gather
from pipeline.cli.app import app
from pipeline.cli.asking import Inquiry, answered, new_reading
from pipeline.config import Settings
from pipeline.context.reading import Answer, Ending, Span, Spend
from pipeline.context.reading_trace import Trace
from pipeline.exceptions import InputError
from pipeline.telemetry import Action, discard
from pipeline.testing import ScriptedGenerator

_CODE = "def ship(box):\n    return send(box)\n\n\ndef weigh(box):\n    return box.grams\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LOOPWRIGHT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "boxes.py").write_text(_CODE)
    return tmp_path / "shop"


def book_of(tmp_path, *paths):
    source = gather([str(path) for path in paths], tmp_path / "tree", clone_cache=tmp_path / "clones")
    return opened(source, tmp_path / "parts.sqlite", discard)


def desk(tmp_path, generator=None, **reading) -> Desk:
    settings = Settings.model_validate({"reading": reading})
    return Desk(
        folder=tmp_path,
        scores=tmp_path / "scores.sqlite",
        settings=settings,
        trace=Trace(),
        emit=discard,
        generator=generator,
    )


class TestSource:
    def test_a_folder_is_read_with_its_own_paths(self, tmp_path, shop):
        assert list(book_of(tmp_path, shop).tree.files) == ["boxes.py"]

    def test_several_paths_stand_under_their_names(self, tmp_path, shop):
        log = tmp_path / "app.log"
        log.write_text("all is well\n")

        assert sorted(book_of(tmp_path, shop, log).tree.files) == ["app.log", "shop/boxes.py"]

    def test_a_file_that_is_named_is_read_whatever_it_is_called(self, tmp_path):
        lock = tmp_path / "yarn.lock"
        lock.write_text("left-pad\n")

        assert list(book_of(tmp_path, lock).tree.files) == ["yarn.lock"]

    def test_stdin_is_a_text(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"some log\n")))

        assert list(book_of(tmp_path, "-").tree.files) == ["stdin.txt"]

    def test_two_of_one_name_are_refused(self, tmp_path, shop):
        with pytest.raises(InputError, match="two of the paths are called shop"):
            gather([str(shop), str(shop)], tmp_path / "tree", clone_cache=tmp_path)

    def test_a_path_that_is_missing_is_told(self, tmp_path):
        with pytest.raises(InputError, match="does not exist"):
            gather([str(tmp_path / "none.txt")], tmp_path / "tree", clone_cache=tmp_path)

    def test_a_pipe_in_a_folder_holds_nothing_up(self, tmp_path, shop):
        import os

        os.mkfifo(shop / "pipe")

        assert list(book_of(tmp_path, shop).tree.files) == ["boxes.py"]


class TestReading:
    async def test_what_fits_the_window_is_read_whole(self, tmp_path, shop):
        generator = ScriptedGenerator(["It sends the box [1]."])

        answer = await read("what happens?", book_of(tmp_path, shop), "auto", desk(tmp_path, generator))

        asked = generator.calls[-1][0][0].messages[-1].content
        assert "def ship" in asked
        assert "def weigh" in asked
        assert (answer.tier, answer.ending, answer.text) == (
            "direct",
            Ending.COMPLETE,
            "It sends the box [1].",
        )

    async def test_of_what_does_not_fit_the_best_places_are_read(self, tmp_path, shop):
        for number in range(200):
            (shop / f"page{number}.py").write_text(f"def f{number}():\n    return {number}\n" * 3)
        generator = ScriptedGenerator(["By grams."], max_model_tokens=1200)

        answer = await read(
            "how are boxes weighed: weigh", book_of(tmp_path, shop), "auto", desk(tmp_path, generator)
        )

        assert answer.tier == "lexical"
        assert answer.spans[0].qualname == "weigh"
        assert "box.grams" in generator.calls[-1][0][0].messages[-1].content
        assert "def f7(" not in generator.calls[-1][0][0].messages[-1].content

    async def test_a_prompt_never_exceeds_the_window(self, tmp_path, shop):
        (shop / "long.txt").write_text("ship a box\n" * 5000)
        generator = ScriptedGenerator(["Yes."], max_model_tokens=1500)

        await read("ship box", book_of(tmp_path, shop), "lexical", desk(tmp_path, generator))

        [prompt], sampling = generator.calls[-1]
        assert (await generator.count_tokens([prompt]))[0] + sampling.max_tokens <= 1500

    async def test_nothing_is_answered_from_nothing(self, tmp_path, shop):
        generator = ScriptedGenerator(["A confident answer."])

        answer = await read("zzzz", book_of(tmp_path, shop), "lexical", desk(tmp_path, generator))

        assert (answer.text, answer.ending) == ("", Ending.NOTHING_READ)
        assert not generator.calls

    async def test_without_a_model_the_places_are_told(self, tmp_path, shop):
        answer = await read("weigh", book_of(tmp_path, shop), "auto", desk(tmp_path))

        assert (answer.text, answer.spans[0].qualname) == ("", "weigh")

    async def test_a_budget_that_is_too_small_for_the_answer_leaves_the_places(self, tmp_path, shop):
        generator = ScriptedGenerator(["Yes."])

        answer = await read(
            "weigh", book_of(tmp_path, shop), "lexical", desk(tmp_path, generator, num_tokens=5)
        )

        assert (answer.text, answer.ending) == ("", Ending.BUDGET_SPENT)
        assert answer.spans[0].qualname == "weigh"

    async def test_an_answer_that_is_cut_off_says_so(self, tmp_path, shop):
        class Cut(ScriptedGenerator):
            def _completion(self, *args):
                from dataclasses import replace

                return replace(super()._completion(*args), finish_reason="length")

        answer = await read("weigh", book_of(tmp_path, shop), "lexical", desk(tmp_path, Cut(["So"])))

        assert answer.warnings == ("the answer was cut off at its limit",)

    async def test_the_account_says_what_was_read_and_why_this_tier(self, tmp_path, shop):
        seat = desk(tmp_path, ScriptedGenerator(["Yes."]))

        answer = await read("weigh", book_of(tmp_path, shop), "auto", seat)

        titles = [event.title for event in seat.trace.events]
        assert "tier direct: all of it fits the model's window" in titles
        assert "boxes.py::weigh" in titles
        told = sum(event.num_prompt_tokens for event in seat.trace.events)
        assert told == answer.spend.num_prompt_tokens > 0

    @pytest.mark.parametrize("tier", ["descent", "actions"])
    async def test_a_tier_that_is_asked_for_reads(self, tmp_path, shop, tier):
        seat = desk(tmp_path, ScriptedGenerator(["DONE n2"]), num_calls=100)

        answer = await read("weigh a box", book_of(tmp_path, shop), tier, seat)

        assert (answer.tier, answer.ending) == (tier, Ending.COMPLETE)
        assert answer.text == "DONE n2"
        assert {span.qualname for span in answer.spans} >= {"weigh", "ship"}

    async def test_a_descent_that_is_asked_for_again_judges_nothing_twice(self, tmp_path, shop):
        book, generator = book_of(tmp_path, shop), ScriptedGenerator(["Yes"])
        first = await read("weigh", book, "descent", desk(tmp_path, generator))

        again = await read("weigh", book, "descent", desk(tmp_path, generator))

        assert (again.spend.num_calls, again.spans) == (1, first.spans)  # the answer itself


def lines_of(branches) -> list[str]:
    console = Console(file=io.StringIO(), width=100)
    console.print(tree_of(branches))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


class TestAccount:
    def test_a_branch_costs_what_all_below_it_costs(self):
        trace = Trace()
        root = trace.add("question", "why?")
        child = trace.add("ask", "a part", parent=root, num_prompt_tokens=10)
        trace.add("ask", "a part of it", parent=child, num_completion_tokens=5)

        [branch] = branches_of(trace.events)

        assert branch.num_tokens == 15
        assert lines_of([branch]) == [
            "How it was read",
            "└── question: why? (15 tokens)",
            "    └── ask: a part (15 tokens)",
            "        └── ask: a part of it (5 tokens)",
        ]

    def test_of_many_events_the_first_are_shown_on_a_terminal_and_none_of_their_markup_holds(self):
        trace = Trace()
        for number in range(30):
            trace.add("score", f"[red]{number}[/red]\x1b[31m", is_cached=True)

        lines = lines_of(branches_of(trace.events))

        assert len(lines) == 14
        assert lines[1] == "├── score: [red]0[/red], known before"
        assert lines[-1] == "└── and 18 more"

    def test_a_trace_on_disk_is_whole_at_any_moment(self, tmp_path):
        trace = Trace(tmp_path / "trace.jsonl")
        trace.add("question", "why?")
        trace.add("error", "an \ud800 odd text")

        lines = (tmp_path / "trace.jsonl").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["question", "error"]

    def test_text_of_a_model_cannot_break_the_page(self):
        trace = Trace()
        trace.add("ask", "<script>alert(1)</script>", detail="</pre><script>alert(2)</script>\x1b[31m")
        span = Span(path="<i>.py", qualname="f", start_line=1, end_line=2, score=1.0)
        answer = Answer(
            text="<b>bold</b>", tier="direct", spend=Spend(), ending=Ending.COMPLETE, spans=(span,)
        )

        page = render_reading("<img src=x>", answer, trace.events)

        assert "<script" not in page
        assert "<img" not in page
        assert "<b>" not in page
        assert "\x1b" not in page


class TestCommand:
    async def test_what_is_being_read_is_told_while_it_is(self, tmp_path, shop):
        inquiry = Inquiry(
            paths=(str(shop),), question="ship?", tier="lexical", with_model=False, recurrence_depth=1
        )
        told = []

        await answered(inquiry, Settings(), new_reading(), told.append)

        steps = [(one.message, one.data) for one in told if one.action is Action.PROGRESS]
        assert steps == [
            ("reading: tier lexical: no model is asked", {"stage": "read", "done": 1, "unit": "steps"})
        ]

    def test_places_are_printed_and_kept(self, home, shop):
        result = CliRunner().invoke(app, ["ask", str(shop), "-q", "weigh", "--places-only"])

        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("[1] boxes.py:")
        assert "weigh" in result.stdout.splitlines()[0]
        [folder] = (home / "readings").iterdir()
        assert sorted(path.name for path in folder.iterdir()) == ["answer.json", "report.html", "trace.jsonl"]

    def test_how_it_was_read_is_printed_where_it_is_asked_for(self, shop):
        command = ["ask", str(shop), "-q", "weigh", "--places-only"]

        assert "decide: tier lexical: no model" in CliRunner().invoke(app, [*command, "--how"]).stderr
        assert "How it was read" not in CliRunner().invoke(app, command).stderr

    def test_json_is_one_object(self, shop):
        result = CliRunner().invoke(app, ["ask", str(shop), "-q", "weigh", "--places-only", "--json"])

        found = json.loads(result.stdout)
        assert (found["tier"], found["ending"], found["spans"][0]["qualname"]) == (
            "lexical",
            "complete",
            "weigh",
        )

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("nowhere.txt", "-q", "why?", "--places-only"), "does not exist"),
            ((".", "-q", "why?", "--set", "reading.num_calls=-1"), "reading.num_calls"),
            ((".", "-q", " "), "the question is empty"),
        ],
    )
    def test_what_cannot_be_used_is_told(self, arguments, said):
        result = CliRunner().invoke(app, ["ask", *arguments])

        assert result.exit_code == 2
        assert said in result.output

    def test_nothing_found_is_told_by_the_exit_code(self, shop):
        assert CliRunner().invoke(app, ["ask", str(shop), "-q", "zzzz", "--places-only"]).exit_code == 3
