"""A rich run record to draw, and a hostile one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pipeline.account import Event
from pipeline.config import Rung, Settings
from pipeline.core import (
    Candidate,
    Completion,
    Message,
    Patch,
    Prompt,
    Suspect,
    Task,
    TestCase,
    TestStatus,
    Verdict,
    VerdictKind,
)
from pipeline.runs import (
    BaselineRecord,
    CandidateRecord,
    PromptRecord,
    ReadingRecord,
    RoundRecord,
    RunRecord,
)

STARTED = datetime(2026, 11, 21, 14, 30, 5, tzinfo=UTC)
SUSPECT = Suspect(
    path="src/humanise/size.py",
    qualname="natural_size",
    start_line=14,
    end_line=41,
    score=7.9,
    evidence=("traceback frame 1", "coverage 1.00", "bm25 7.3"),
)
OTHERS = (
    Suspect(
        path="src/humanise/size.py", qualname="SizeFormatter._suffix", start_line=44, end_line=60, score=4.1
    ),
    Suspect(
        path="src/humanise/i18n.py",
        qualname="ngettext",
        start_line=3,
        end_line=9,
        score=1.2,
        evidence=("bm25 1.2",),
    ),
)
DIFF = """--- a/src/humanise/size.py
+++ b/src/humanise/size.py
@@ -30,7 +30,7 @@ def natural_size(value, binary=False, format="%.1f"):
     base = 1024 if binary else 1000
     num_bytes = float(value)
     abs_bytes = abs(num_bytes)
-    if abs_bytes == 1 and not gnu:
+    if abs_bytes == 1 and not gnu and not binary:
         return f"{int(num_bytes)} Byte"
     for index, suffix in enumerate(suffixes):
         unit = base ** (index + 2)
"""
TRACEBACK = """    def test_natural_size_rounds_up():
>       assert natural_size(999_999) == "1.0 MB"
E       AssertionError: assert '1000.0 kB' == '1.0 MB'

tests/test_size.py:41: AssertionError"""


def candidate_record(
    number: int,
    kind: VerdictKind | None,
    *,
    round_number: int = 1,
    depth: int = 1,
    refused: str = "",
    diff: str = DIFF,
) -> CandidateRecord:
    """Return one draft with a verdict, or one that was refused or never tested."""
    fixed = {VerdictKind.RESOLVED: 2, VerdictKind.PARTIAL: 1}.get(kind, 0) if kind else 0
    return CandidateRecord(
        candidate=Candidate(
            candidate_id=f"r{round_number}c{number:02}",
            round=round_number,
            suspect=SUSPECT,
            sampling_seed=number,
            temperature=0.0 if number == 1 else 0.8,
            recurrence_depth=depth,
            diff="" if refused else diff,
            refused=refused,
            fingerprint=f"{number:064}",
            num_tokens=180 + number,
        ),
        prompt_number=0,
        completion=Completion(
            text='def natural_size(value, binary=False):\n    """Return it."""\n    return "1 < 2 & 3"\n',
            num_prompt_tokens=731,
            num_completion_tokens=180 + number,
            finish_reason="stop",
            recurrence_depth=depth,
            seconds=4.2 * depth,
        ),
        verdict=None
        if kind is None
        else Verdict(
            kind=kind,
            num_fixed=fixed,
            num_target=2,
            num_broken=3 if kind is VerdictKind.REGRESSED else 0,
            num_kept=96,
            feedback="" if kind is VerdictKind.RESOLVED else TRACEBACK,
            failure_class="" if kind is VerdictKind.RESOLVED else "assertion",
            wall_seconds=1.9,
        ),
        tests_changed={"tests/test_size.py::test_natural_size_rounds_up": "passed"} if fixed else {},
    )


def round_record(number: int, rung: Rung, candidates: list[CandidateRecord]) -> RoundRecord:
    """Return a round with one prompt."""
    prompt = Prompt(
        messages=(
            Message("system", "You repair Python functions."),
            Message("user", f"The tests fail.\n\n{TRACEBACK}\n\nRewrite `natural_size`."),
        ),
        prefill="```python\ndef natural_size(",
    )
    return RoundRecord(
        number=number,
        rung=rung,
        prompts=[PromptRecord(suspect=SUSPECT, prompt=prompt, num_tokens=731)],
        candidates=candidates,
        draft_seconds=31.5,
        test_seconds=12.25,
    )


def reading_record(question: str, place: str, *, reason: str = "") -> ReadingRecord:
    """Return a reading that has judged one place."""
    root = Event(event_id=0, parent_id=None, kind="question", title=question, detail=question)
    score = Event(event_id=1, parent_id=0, kind="score", title=f"{place}: +2.50", num_prompt_tokens=1234)
    return ReadingRecord(
        judgements={place: 0.75},
        reason=reason,
        events=[root, score],
        num_calls=3,
        num_prompt_tokens=1234,
        num_completion_tokens=3,
        seconds=4.5,
    )


def solved_record(run_id: str = "261121-143005-k3", **changes: object) -> RunRecord:
    """Return a run that was solved in its third round, at depth 2."""
    kinds = (
        VerdictKind.UNCHANGED,
        VerdictKind.PARTIAL,
        VerdictKind.REGRESSED,
        VerdictKind.BROKEN,
        VerdictKind.TIMED_OUT,
        VerdictKind.INFRA_ERROR,
    )
    first = [candidate_record(i, kind) for i, kind in enumerate(kinds, 1)]
    first += [
        candidate_record(7, None, refused="the answer holds no function named natural_size"),
        candidate_record(8, None, refused="duplicate of r1c01"),
    ]
    second = [candidate_record(i, VerdictKind.UNCHANGED, round_number=2) for i in range(1, 15)]
    third = [
        candidate_record(1, VerdictKind.PARTIAL, round_number=3, depth=2),
        candidate_record(2, VerdictKind.RESOLVED, round_number=3, depth=2),
        candidate_record(3, None, round_number=3, depth=2),
    ]
    record = RunRecord(
        run_id=run_id,
        status="solved",
        reason="draft r3c02 makes both target tests pass and breaks none",
        task=Task(
            task_id="humanise-natural-size",
            repo="~/src/humanise",
            statement="`natural_size(999999)` gives 1000.0 kB.\n\nIt should say 1.0 MB.",
            test_command="python -m pytest -q",
        ),
        settings=Settings.model_construct().model_dump(mode="json"),
        versions={"loopwright": "0.1.0", "python": "3.11.9", "vllm": "0.32.0"},
        model="qwen2.5-coder-0.5b (int8)",
        base_commit="4f1d2c9a7be04c55a1c04d3a7f8e9b0c1d2e3f40",
        tree_hash="0" * 64,
        started_at=STARTED,
        finished_at=STARTED + timedelta(seconds=214),
        baseline=BaselineRecord(
            fail_to_pass=["tests/test_size.py::test_natural_size_rounds_up", "tests/test_size.py::test_gnu"],
            pass_to_pass=[f"tests/test_other.py::test_{i}" for i in range(96)],
            failures=[
                TestCase(
                    test_id="tests/test_size.py::test_natural_size_rounds_up",
                    status=TestStatus.FAILED,
                    message="AssertionError: assert '1000.0 kB' == '1.0 MB'",
                    details=TRACEBACK,
                ),
                TestCase(
                    test_id="tests/test_size.py::test_gnu", status=TestStatus.ERROR, message="NameError: gnu"
                ),
            ],
            output="2 failed, 96 passed",
            wall_seconds=2.4,
        ),
        suspects=[SUSPECT, *OTHERS],
        rounds=[
            round_record(1, Rung(), first),
            round_record(2, Rung(num_candidates=16, num_suspects=3), second),
            round_record(3, Rung(recurrence_depth=2, context="wide", feedback=True, temperature=1.0), third),
        ],
        patch=Patch(diff=DIFF, candidate_id="r3c02", paths=("src/humanise/size.py",), num_changed_lines=2),
        seconds_by_stage={"prepare": 41.0, "localise": 1.2, "pack": 40.55, "draft": 94.5, "test": 36.75},
        num_sandbox_runs=25,
        sandbox_seconds=61.0,
    )
    return record.model_copy(update=changes)


def bare_record(status: str = "failed", **changes: object) -> RunRecord:
    """Return a run that ended before its tests were run."""
    return solved_record().model_copy(
        update={
            "status": status,
            "reason": "",
            "model": "",
            "baseline": None,
            "suspects": [],
            "rounds": [],
            "patch": None,
            "versions": {},
            "seconds_by_stage": {},
            "finished_at": None,
            **changes,
        }
    )


HOSTILE = (
    "<script>alert(1)</script></pre></details></style>\"'><img src=x onerror=alert(1)>"
    "\x1b[31mred\x1b[0m"
    "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07 nul\x00 bell\x07 \u202egpj.exe {{ 7*7 }} &lt;\ud800"
)


def hostile_record() -> RunRecord:
    """Return a run in which every text that a model or a repository may choose tries to break the page."""
    long_line = "A" * 1_000_000
    suspect = Suspect(
        path=HOSTILE, qualname=HOSTILE, start_line=1, end_line=2, score=0.0, evidence=(HOSTILE,)
    )
    base = solved_record()
    shown = base.rounds[2].candidates[1]
    candidate = shown.model_copy(
        update={
            "candidate": Candidate(
                candidate_id="r3c02",
                round=3,
                suspect=suspect,
                sampling_seed=0,
                temperature=0.5,
                recurrence_depth=2,
                diff=f"+{HOSTILE}\n+{long_line}\n",
                refused=HOSTILE,
            ),
            "completion": Completion(
                text=HOSTILE + long_line,
                num_prompt_tokens=1,
                num_completion_tokens=1,
                finish_reason="length",
                recurrence_depth=2,
                seconds=0.0,
            ),
            "verdict": Verdict(kind=VerdictKind.PARTIAL, feedback=HOSTILE + long_line, failure_class=HOSTILE),
            "tests_changed": {HOSTILE: HOSTILE},
        }
    )
    prompt = PromptRecord(
        suspect=suspect,
        prompt=Prompt(messages=(Message("user", HOSTILE + "\n" * 100_000 + long_line),), prefill=HOSTILE),
        num_tokens=1,
    )
    hostile_round = base.rounds[2].model_copy(update={"prompts": [prompt], "candidates": [candidate]})
    case = TestCase(test_id=HOSTILE, status=TestStatus.FAILED, message=HOSTILE, details=HOSTILE + long_line)
    return base.model_copy(
        update={
            "run_id": HOSTILE,
            "reason": HOSTILE,
            "model": HOSTILE,
            "base_commit": HOSTILE,
            "versions": {HOSTILE: HOSTILE},
            "settings": {HOSTILE: HOSTILE},
            "seconds_by_stage": {HOSTILE: 0.0},
            "task": base.task.model_copy(
                update={"task_id": HOSTILE, "repo": HOSTILE, "statement": HOSTILE, "test_command": HOSTILE}
            ),
            "reading": reading_record(HOSTILE, HOSTILE, reason=HOSTILE),
            "suspects": [suspect],
            "rounds": [hostile_round],
            "baseline": BaselineRecord(
                fail_to_pass=[HOSTILE], pass_to_pass=[], failures=[case], output=HOSTILE, wall_seconds=0.0
            ),
            "patch": Patch(
                diff=f"+{HOSTILE}\n+{long_line}", candidate_id="r3c02", paths=(HOSTILE,), num_changed_lines=2
            ),
        }
    )
