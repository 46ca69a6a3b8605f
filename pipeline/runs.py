"""What is kept of every run: one folder with the task, checkpoint, ledger, trajectory and report.

The trajectory (`trajectory.json`) is the full account: every prompt, completion, verdict, depth, token count
and second. It is written after every node of the graph, so a killed run still has one.
"""

from __future__ import annotations

import json
import os
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.account import Event
from pipeline.config import Rung
from pipeline.core import Candidate, Completion, Patch, Prompt, Suspect, Task, TestCase, Verdict
from pipeline.exceptions import InputError

RunStatus = Literal["running", "solved", "unsolved", "nothing_to_repair", "failed", "interrupted"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CandidateRecord(_Record):
    """One draft, from prompt to verdict."""

    candidate: Candidate
    prompt_number: int | None  # into the round's prompts; None: made of other candidates, not drafted
    completion: Completion
    branch: str = (
        ""  # how the answer was given to begin, where it leaves the greedy one; a splice is given whole
    )
    verdict: Verdict | None = None  # None: never tested (refused, duplicate, or not reached yet)
    tests_changed: dict[str, str] = Field(
        default_factory=dict
    )  # test id -> new status, where it differs from base


class PromptRecord(_Record):
    """One prompt, as the model saw it."""

    suspect: Suspect
    prompt: Prompt
    num_tokens: int
    span: tuple[int, int] | None = None  # lines of the definition that it asks for; None: all of it
    suspicion: float = 0.0  # Ochiai of these lines, 0 to 1; 0 where it cannot be told


class RoundRecord(_Record):
    """One rung of the ladder."""

    number: int  # counts from 1
    rung: Rung
    rung_number: int = 0  # its place in the ladder, from 0
    reason: str = ""  # why the policy chose it
    footing: str = ""  # the partial candidate that its drafts go on from; "": the base
    prompts: list[PromptRecord] = Field(default_factory=list)
    candidates: list[CandidateRecord] = Field(default_factory=list)
    draft_seconds: float = 0.0
    test_seconds: float = 0.0


class BaselineRecord(_Record):
    """What the tests said before anything was changed."""

    fail_to_pass: list[str]
    pass_to_pass: list[str]
    failures: list[TestCase]
    output: str
    wall_seconds: float
    cpu_seconds: float | None = None
    runner_changes: list[str] = []  # of the code's own: a candidate may not add to them


class ScaffoldRecord(_Record):
    """Definitions that failing tests ask for and the tree had not; stubs of them lie under every draft."""

    added: list[str]  # path::qualname
    diff: str
    baseline: BaselineRecord  # as it was without them


class ReproductionDraft(_Record):
    """One draft of a test for the issue."""

    completion: Completion
    source: str = ""  # the test file; "" where the answer held no test
    dropped: str = ""  # why it is no evidence; "" where it fails as it should
    signature: str = ""  # of its failure


class ReproductionRecord(_Record):
    """Tests drafted from the issue's text, and the one that became the target, if any.

    Nobody has confirmed that it says what the issue means: whatever rests on it is advisory.
    """

    advisory: Literal[True] = True
    prompt: Prompt | None = None  # None: the tree has no test to imitate
    drafts: list[ReproductionDraft] = Field(default_factory=list)
    path: str = ""  # of the new test file; "" where no draft was kept
    test_id: str = ""
    source: str = ""
    diff: str = ""  # that adds it
    reason: str = ""  # what became of the drafts, in a sentence


class ReadingRecord(_Record):
    """A reading of the tree for the fault: what it says, and what was read, asked and decided on the way."""

    judgements: dict[str, float] = Field(default_factory=dict)  # path::qualname -> what it adds to a score
    reason: str = ""  # why it has no say in the suspects; "" where it has
    events: list[Event] = Field(default_factory=list)
    num_calls: int = 0  # of the model; what was known before is not counted
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    seconds: float = 0.0


class RunRecord(_Record):
    """The whole account of a run."""

    schema_version: Literal[1] = 1
    run_id: str
    status: RunStatus
    reason: str = ""  # why it ended as it did, in a sentence
    task: Task
    settings: dict[str, Any]  # resolved
    versions: dict[str, str] = Field(default_factory=dict)
    model: str = ""
    base_commit: str = ""
    tree_hash: str = ""
    started_at: datetime
    finished_at: datetime | None = None
    baseline: BaselineRecord | None = None
    reproduction: ReproductionRecord | None = None
    scaffold: ScaffoldRecord | None = None
    reading: ReadingRecord | None = None  # None: nothing but words and tests was asked
    suspects: list[Suspect] = Field(default_factory=list)
    rounds: list[RoundRecord] = Field(default_factory=list)
    patch: Patch | None = None
    seconds_by_stage: dict[str, float] = Field(default_factory=dict)
    num_sandbox_runs: int = 0
    sandbox_seconds: float = 0.0

    @property
    def is_advisory(self) -> bool:
        """Whether the target is a test that was drafted from the issue and nobody has confirmed."""
        return self.reproduction is not None and bool(self.reproduction.test_id)

    @property
    def completions(self) -> list[Completion]:
        """Everything that the model wrote: drafts of tests, and candidates."""
        tests = self.reproduction.drafts if self.reproduction else []
        candidates = (entry for round_ in self.rounds for entry in round_.candidates)
        return [draft.completion for draft in tests] + [
            entry.completion for entry in candidates if entry.prompt_number is not None
        ]

    @property
    def num_completion_tokens(self) -> int:
        """The tokens that the model wrote in the whole run, those of a reading included."""
        written = sum(completion.num_completion_tokens for completion in self.completions)
        return written + (self.reading.num_completion_tokens if self.reading else 0)


class RunFolder:
    """The folder of one run. Every write is atomic: a reader sees the old file or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def checkpoint_path(self) -> Path:
        """The LangGraph checkpointer's SQLite file."""
        return self.path / "checkpoint.sqlite"

    @property
    def ledger_path(self) -> Path:
        """Finished completions and sandbox runs, by content, so that a resumed run pays for nothing twice."""
        return self.path / "ledger"

    @property
    def report_path(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the folder, atomically, and return its path."""
        self.path.mkdir(parents=True, exist_ok=True)
        return write_atomically(self.path / name, text.encode())

    def save(self, record: RunRecord) -> Path:
        """Write the trajectory."""
        # Not model_dump_json: only ASCII JSON carries the lone surrogates of a file name that is not UTF-8.
        return self.write_text("trajectory.json", json.dumps(record.model_dump(mode="json"), indent=1))

    def load(self) -> RunRecord:
        """Read the trajectory.

        Raises:
            InputError: there is none, or it is not one.
        """
        try:
            return RunRecord.model_validate(json.loads((self.path / "trajectory.json").read_text()))
        except (OSError, ValueError) as exc:
            raise InputError(f"run {self.run_id} has no readable trajectory: {exc}") from exc


def write_atomically(path: Path, data: bytes) -> Path:
    """Write a file so that it is either wholly there or not at all, also after a crash."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
