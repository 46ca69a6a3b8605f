"""What tier D promises: calibrated answers, a known number of calls, and never less than the words alone."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.context.descent.beam import Descender, Options
from pipeline.context.descent.localise import localise_by_descent, localise_by_words
from pipeline.context.descent.pieces import Piece, Pieces
from pipeline.context.descent.scorer import YesNoScorer, shuffled
from pipeline.context.lexical import LexicalIndex
from pipeline.context.reading import Ending, Findings, Query
from pipeline.context.reading_trace import Trace
from pipeline.context.spending import BudgetSpentError, Purse
from pipeline.context.tree.index import index
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import units
from pipeline.core import Budget, Prompt, Sampling, Step
from pipeline.exceptions import GeneratorError, InputError
from pipeline.snapshot import Snapshot
from pipeline.testing import ScriptedGenerator


def answering(odds) -> ScriptedGenerator:
    """Return a model whose log odds of yes are a function of the query and the piece it is asked about."""

    def reply(prompt: Prompt, _: Sampling, __: int) -> str:
        text = prompt.messages[-1].content
        piece, _, rest = text.removeprefix("A piece of a repository:\n").rpartition("\n\nThe query:\n")
        return str(odds(rest.rpartition("\n\n")[0], piece))

    return ScriptedGenerator(reply, steps=first_token)


def first_token(said: str) -> tuple[Step, ...]:
    if said == "None":
        return (Step("Maybe", -0.1, (("Hello", -3.0),)),)
    yes = 1 / (1 + math.exp(-float(said)))
    # Both spellings of yes: their chances add up.
    return (Step("Yes", math.log(yes / 2), ((" yes", math.log(yes / 2)), ("No", math.log(1 - yes)))),)


async def test_what_is_about_the_query_scores_higher_than_what_a_model_says_yes_to_anyway():
    def odds(query, piece):
        return (4.0 if "long" in piece else -2.0) + (2.0 if "basket" in query and "basket" in piece else 0.0)

    scorer = YesNoScorer(answering(odds), Texts(), calibration="both")
    found = await scorer.scores("empty the basket", bodies("long tale", "basket"))

    assert found[0].raw > found[1].raw  # it says yes to what is long
    assert found[0].value == pytest.approx(0.0)
    assert found[1].value > 0.5


async def test_words_in_a_random_order_count_as_no_query():
    """What a model says for the words alone, it does not say for the question."""

    def odds(query, piece):
        return 3.0 if {"empty", "basket"} <= set(query.split()) else 0.0

    scorer = YesNoScorer(answering(odds), Texts(), calibration="shuffled")

    assert (await scorer.scores("empty the basket", bodies("basket")))[0].value == pytest.approx(0.0)


async def test_all_pieces_are_asked_about_in_one_batch():
    generator = answering(lambda query, piece: 0.0)
    scorer = YesNoScorer(generator, Texts())

    await scorer.scores("query", bodies("one", "two", "three"))

    assert len(generator.calls) == 1
    assert len(generator.calls[0][0]) == 3 * scorer.calls_per_piece


async def test_of_a_chunk_is_asked_whether_it_contains_what_of_a_body_is_asked_whether_it_is():
    generator = answering(lambda query, piece: 0.0)
    pieces = [Piece(kind, "def f(): ...", "") for kind in ("chunk", "body")]
    scorer = YesNoScorer(generator, Texts())

    await scorer.scores("query", pieces)

    asked = [prompt.messages[-1].content.rpartition("\n\n")[2] for prompt in generator.calls[0][0]]
    assert asked == [
        "Does this piece contain what the query is about?",
        "Is this piece what the query is about?",
    ]
    assert len(set(await scorer.keys("query", pieces))) == 2


async def test_every_spelling_of_yes_counts():
    [score] = await YesNoScorer(answering(lambda *_: 1.5), Texts(), calibration="none").scores(
        "q", bodies("piece")
    )

    assert score.value == pytest.approx(1.5)


async def test_a_model_that_says_neither_yes_nor_no_gives_no_score():
    [score] = await YesNoScorer(answering(lambda *_: None), Texts()).scores("q", bodies("piece"))

    assert score.value is None


async def test_an_engine_that_tells_no_chances_gives_no_score():
    generator = ScriptedGenerator(["Yes"])

    assert (await YesNoScorer(generator, Texts()).scores("q", bodies("piece")))[0].value is None


@pytest.mark.parametrize("calibration", ["none", "empty", "shuffled", "both"])
async def test_the_number_of_calls_for_a_piece_is_known_before(calibration):
    generator = answering(lambda *_: 0.0)
    scorer = YesNoScorer(generator, Texts(), calibration=calibration)

    await scorer.scores("some query", bodies("piece"))

    assert sum(len(prompts) for prompts, _ in generator.calls) == scorer.calls_per_piece


def test_a_query_is_shuffled_the_same_way_each_time():
    query = "one two three four five six seven"

    assert shuffled(query) == shuffled(query) != query
    assert sorted(shuffled(query).split()) == sorted(query.split())


def bodies(*texts):
    return [Piece("body", text, "") for text in texts]


class Texts:
    """Pieces whose names are their texts."""

    def text(self, piece):
        return piece.key


class Shelf:
    """A tree of many small files, and one in which something is hidden."""

    def __init__(self, root, num_folders: int = 6, num_files: int = 5, budget: Budget | None = None) -> None:
        for folder in range(num_folders):
            for number in range(num_files):
                path = root / f"part{folder}" / f"page{number}.py"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"def f{folder}{number}(x):\n    return x + {number}\n", "utf-8")
        (root / "part3" / "page4.py").write_text("def zq(kk):\n    return kk[::-1]\n", "utf-8")
        snapshot = Snapshot(root, "")
        self.tree: RepoTree = index(snapshot)
        self.words = LexicalIndex(units(self.tree, snapshot))
        self.trace = Trace()
        budget = budget or Budget(num_calls=1000)
        self.purse = Purse.open(root.with_suffix(".purse"), budget, time.time() + budget.wall_seconds)

    async def read(
        self, query: str, generator: ScriptedGenerator, num_whole: int = 0, **options: int
    ) -> Findings:
        return await localise_by_descent(
            Query(text=query),
            self.tree,
            self.words.units,
            self.words.ranked(query),
            scorer=YesNoScorer(generator, Pieces(self.tree, self.words.units)),
            purse=self.purse,
            trace=self.trace,
            options=Options(num_whole=num_whole, **options),
        )


def knowing(query: str, piece: str) -> float:
    """What a model says that knows what part 3, its last page and `zq` are about."""
    is_it = "package part3" in piece or "part3/page4" in piece
    return 4.0 if "backwards" in query and is_it else -1.0


def num_asked(generator: ScriptedGenerator) -> int:
    return sum(len(prompts) for prompts, _ in generator.calls)


async def test_a_model_that_knows_finds_what_no_word_leads_to(tmp_path):
    shelf = Shelf(tmp_path / "shelf")
    query = "what reads backwards?"

    found = await shelf.read(query, answering(knowing))

    assert not localise_by_words(Query(text=query), shelf.words).spans
    assert (found.spans[0].path, found.spans[0].qualname) == ("part3/page4.py", "zq")
    assert found.tier == "descent"
    assert (found.ending, found.coverage) == (Ending.COMPLETE, 1.0)


async def test_the_tree_asks_for_less_than_all_there_is(tmp_path):
    shelf, generator = Shelf(tmp_path / "shelf", num_folders=20, num_files=10), answering(knowing)

    found = await shelf.read("what reads backwards?", generator, beam=3, width=20, num_bodies=10)

    assert found.spans[0].qualname == "zq"
    assert num_asked(generator) == found.spend.num_calls < len(shelf.words.units) / 4


async def test_a_small_tree_is_judged_whole(tmp_path):
    shelf, generator = Shelf(tmp_path / "shelf"), answering(knowing)

    found = await shelf.read("what reads backwards?", generator, num_whole=256, num_bodies=3)

    assert found.spans[0].qualname == "zq"
    assert num_asked(generator) == len(shelf.words.units)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(4, 8), st.integers(5, 8)),
    beam=st.integers(1, 9),
    width=st.integers(1, 9),
    num_bodies=st.integers(1, 30),
)
async def test_no_query_takes_more_calls_than_were_announced(
    tmp_path_factory, shape, beam, width, num_bodies
):
    shelf, generator = Shelf(tmp_path_factory.mktemp("shelf") / "tree", *shape), answering(knowing)
    options = Options(num_whole=0, beam=beam, width=width, num_bodies=num_bodies)
    announced = Descender(shelf.tree, shelf.words.units, options).num_pieces_at_most

    await shelf.read("backwards f00", generator, beam=beam, width=width, num_bodies=num_bodies)

    assert num_asked(generator) <= announced
    assert f"at most {announced} calls" in next(e.title for e in shelf.trace.events if e.kind == "plan")


async def test_what_may_cost_more_than_the_budget_is_refused_before_anything_is_asked(tmp_path):
    shelf, generator = Shelf(tmp_path / "shelf", budget=Budget(num_calls=10)), answering(knowing)

    with pytest.raises(BudgetSpentError, match="of the model, and 10 are left"):
        await shelf.read("what reads backwards?", generator)

    assert num_asked(generator) == 0


async def test_an_engine_that_fails_costs_coverage_and_leaves_what_the_words_found(tmp_path):
    shelf = Shelf(tmp_path / "shelf")

    def failing(query, piece):
        raise GeneratorError("gone")

    found = await shelf.read("f32", answering(failing))

    assert found.spans[0].qualname == "f32"
    assert found.coverage == 0.0
    assert any(event.kind == "error" and "gone" in event.title for event in shelf.trace.events)


async def test_a_piece_that_is_too_long_for_the_model_is_left_out_alone(tmp_path):
    shelf = Shelf(tmp_path / "shelf")

    def refusing(query, piece):
        if "def f32" in piece:
            raise InputError("the prompt has 5000 tokens; the window has 4096")
        return knowing(query, piece)

    found = await shelf.read("what reads backwards?", answering(refusing))

    assert found.spans[0].qualname == "zq"
    assert found.coverage == pytest.approx(29 / 30)
    assert any(event.kind == "error" and "1 piece not judged" in event.title for event in shelf.trace.events)


async def test_tokens_that_run_out_end_the_reading_with_what_there_is(tmp_path):
    shelf = Shelf(tmp_path / "shelf", budget=Budget(num_calls=1000, num_tokens=1000))

    found = await shelf.read("f32", answering(knowing))

    assert found.ending is Ending.BUDGET_SPENT
    assert found.spans[0].qualname == "f32"
    assert found.coverage < 1
    assert found.spend.num_prompt_tokens + found.spend.num_completion_tokens <= 3000


async def test_a_deadline_ends_the_reading_with_what_there_is(tmp_path):
    shelf = Shelf(tmp_path / "shelf", budget=Budget(num_calls=1000, wall_seconds=1e-9))

    found = await shelf.read("f32", answering(knowing))

    assert (found.ending, found.coverage) == (Ending.DEADLINE, 0.0)
    assert found.spans[0].qualname == "f32"


async def test_the_trace_says_what_was_judged_and_what_it_cost(tmp_path):
    shelf = Shelf(tmp_path / "shelf")

    found = await shelf.read("what reads backwards?", answering(knowing))

    scored = [event for event in shelf.trace.events if event.kind == "score"]
    assert len(scored) == found.spend.num_calls
    assert sum(event.num_prompt_tokens for event in scored) == found.spend.num_prompt_tokens
    assert {event.parent_id for event in scored} == {shelf.trace.events[0].event_id}
