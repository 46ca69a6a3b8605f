"""The frozen values that flow from stage to stage: task, context, draft, sandbox result, verdict, patch.

Pydantic models are what enters from outside (contracts C1 and C5); dataclasses are what flows inside.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

# ---------------------------------------------------------------- limits (C5)


class SandboxLimits(BaseModel):
    """What one run in a sandbox may use. Hitting one is an Outcome, never an exception."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_seconds: float = Field(default=60.0, gt=0, le=86_400)
    cpu_seconds: float = Field(default=120.0, gt=0, le=86_400)
    memory_bytes: int = Field(default=1 << 30, ge=32 << 20)
    num_pids: int = Field(default=256, ge=8)
    num_cpus: float = Field(default=1.0, gt=0)
    output_bytes: int = Field(default=1 << 20, ge=1024)  # kept of each stream
    file_bytes: int = Field(default=16 << 20, ge=1024)  # of each collected file; a longer one is left
    disk_bytes: int = Field(default=512 << 20, ge=1 << 20)  # each writable tmpfs


class Limits(BaseModel):
    """What one task may use in all. There is no unlimited default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    wall_seconds: float = Field(default=1800.0, gt=0)
    num_rounds: int = Field(default=4, ge=1)  # rungs of the escalation ladder that may be climbed
    num_candidates: int = Field(default=320, ge=1)  # drafts in all rounds together
    num_tokens: int = Field(default=200_000, ge=1)  # completion tokens in all
    max_recurrence_depth: int = Field(default=4, ge=1)
    sandbox: SandboxLimits = SandboxLimits()


class Budget(BaseModel):
    """What one question may cost, all its parallel and recursive parts together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_calls: int = Field(default=512, ge=0)  # of the model, those within calls included
    num_tokens: int = Field(default=200_000, ge=0)  # of prompts and completions
    wall_seconds: float = Field(default=600.0, gt=0)
    max_depth: int = Field(default=1, ge=0)  # of recursive calls below the root


# ---------------------------------------------------------------- task (C1)


class Task(BaseModel):
    """One piece of work: a repository and what its tests must say afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task_id: str = Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    repo: str  # a path or a git URL
    base_commit: str | None = None  # None: the working tree as it stands
    statement: str = ""  # the text
    test_command: str = "python -m pytest"
    fail_to_pass: tuple[str, ...] = ()  # empty: whatever fails in the baseline run
    pass_to_pass: tuple[str, ...] = ()  # empty: whatever passes in the baseline run
    functions: tuple[
        str, ...
    ] = ()  # path::qualname: where the fault is known to be; empty: it is searched for
    test_patch: str = ""  # unified diff that adds the tests, applied before the baseline
    kind: Literal["fix", "implement"] = "fix"
    limits: Limits = Limits()
    metadata: Mapping[str, Any] = Field(default_factory=dict)  # foreign fields, kept so that nothing is lost


# ---------------------------------------------------------------- generation (C2)


@dataclass(frozen=True, slots=True)
class Message:
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """Chat turns, and the text that the model's answer is made to begin with."""

    messages: tuple[Message, ...]
    prefill: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to sample. The same meaning for every Generator."""

    recurrence_depth: int = 1  # passes through the recurrent block; 1 is the plain model
    num_samples: int = 1
    temperature: float = 0.0  # 0 is greedy
    top_p: float = 1.0
    min_p: float = 0.0  # tokens less likely than this share of the likeliest one are never drawn
    seed: int = 0  # sample i of a prompt uses seed + i
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    grammar: str | None = None  # EBNF; None leaves the text free
    num_alternatives: int = 0  # likeliest tokens to be reported for each step of a completion; 0 reports none


@dataclass(frozen=True, slots=True)
class Step:
    """One token of a completion, and what else the model might have said there."""

    text: str
    logprob: float  # natural logarithm
    alternatives: tuple[tuple[str, float], ...]  # text and logprob, likeliest first; the token itself is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One sampled answer. `text` does not repeat the prefill."""

    text: str
    num_prompt_tokens: int
    num_completion_tokens: int
    finish_reason: Literal["stop", "length", "repetition", "abort"]  # repetition: cut off in a loop
    recurrence_depth: int  # the depth actually used
    seconds: float  # from admission to the last token
    steps: tuple[Step, ...] = ()  # where the sampling asked for alternatives and the Generator knows them
    # From a ledger: nothing was paid. It is no part of the answer, so it is neither compared nor kept.
    is_cached: Annotated[bool, Field(exclude=True)] = field(default=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorInfo:
    """What the planner must know of a Generator before it packs a prompt."""

    model: str
    max_model_tokens: int  # prompt and completion together
    max_recurrence_depth: int
    recurrence_depth: int = (
        1  # that it was trained for; 1 for a plain model, and for a server that does not say
    )


# ---------------------------------------------------------------- sandbox (C3)


class Outcome(enum.StrEnum):
    """How a sandbox run ended."""

    EXITED = "exited"
    TIMED_OUT = "timed_out"  # wall or CPU seconds
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"  # killed because it printed without end
    INFRA_ERROR = "infra_error"  # the sandbox failed; says nothing of the code


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A host folder seen inside a sandbox."""

    source: str
    target: str
    read_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedEnvironment:
    """A target's dependencies, installed once and mounted read-only into every run."""

    environment_id: str  # hash of what was asked for and of the interpreter
    python: str  # the interpreter's path inside the sandbox
    mounts: tuple[Mount, ...]
    env: Mapping[str, str] = field(default_factory=dict)  # variables that every run needs
    generated: str = ""  # a tar on the host: files the target's build made, laid under a request's layers
    image: str = ""  # of a container engine, that it was made in and runs in; "": the sandbox's own


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxRequest:
    """Everything that one run may see and use. Nothing is inherited from the host."""

    argv: tuple[str, ...]
    layers: tuple[bytes, ...] = ()  # tar streams, unpacked in order into /workspace
    environment: PreparedEnvironment | None = None
    mounts: tuple[Mount, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    limits: SandboxLimits = field(default_factory=SandboxLimits)
    collect: tuple[str, ...] = ()  # file names in /results to bring back
    signed: str = (
        ""  # one of them that is brought back only with the signature of what was told the run's key
    )
    network: bool = False  # only the prepare phase may set it
    run_id: str = ""  # labels the container so that orphans can be reaped
    image: str = ""  # of a container engine; "": the environment's, else the sandbox's own


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedStream:
    """Head and tail of an output stream, with its true length."""

    head: bytes = b""
    tail: bytes = b""  # empty when the head is all there was
    num_bytes: int = 0

    def text(self) -> str:
        """Return the stream as text, with a line that says how much was left out."""
        left_out = self.num_bytes - len(self.head) - len(self.tail)
        middle = f"\n... {left_out} bytes left out ...\n" if left_out > 0 else ""
        return self.head.decode("utf-8", "replace") + middle + self.tail.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxResult:
    """What one run did."""

    outcome: Outcome
    exit_code: int | None = None  # None when it did not exit by itself
    stdout: CapturedStream = CapturedStream()
    stderr: CapturedStream = CapturedStream()
    collected: Mapping[str, bytes] = field(default_factory=dict)  # only files that exist and fit the limit
    wall_seconds: float = 0.0
    cpu_seconds: float | None = None  # None where the engine cannot tell
    peak_memory_bytes: int | None = None
    error: str = ""  # what broke, for INFRA_ERROR


# ---------------------------------------------------------------- tests and verdict (C6)


class TestStatus(enum.StrEnum):
    """What became of one test."""

    __test__ = False  # not a test class, whatever its name says to pytest

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCase:
    """One test of one run."""

    __test__ = False

    test_id: str  # pytest node id; "command" for a test command that reports no tests
    status: TestStatus
    message: str = ""  # the exception line
    details: str = ""  # the traceback
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TestReport:
    """One run of the test command, as read outside the tested process."""

    __test__ = False

    outcome: Outcome
    exit_code: int | None
    cases: tuple[TestCase, ...]
    output: str  # stdout and stderr, trimmed
    wall_seconds: float
    cpu_seconds: float | None = None  # None where the sandbox cannot tell
    problem: str = (
        ""  # why the run is no evidence: collection failed, no report, report and exit code disagree
    )
    runner_changes: frozenset[str] = frozenset()  # what code that is not trusted changed in the test runner

    def ids(self, *statuses: TestStatus) -> frozenset[str]:
        """Return the ids of the tests that ended in one of the statuses."""
        return frozenset(case.test_id for case in self.cases if case.status in statuses)


class VerdictKind(enum.StrEnum):
    """What a candidate was worth."""

    RESOLVED = "resolved"  # all fail_to_pass pass, no pass_to_pass broken
    PARTIAL = "partial"  # some fail_to_pass pass, none broken
    UNCHANGED = "unchanged"
    REGRESSED = "regressed"  # a pass_to_pass broke
    BROKEN = "broken"  # does not apply, compile or import
    TIMED_OUT = "timed_out"  # or hit another limit of its sandbox
    INFRA_ERROR = "infra_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement on one candidate."""

    kind: VerdictKind
    num_fixed: int = 0  # fail_to_pass that pass now
    num_target: int = 0  # fail_to_pass in all
    num_broken: int = 0  # pass_to_pass that do not pass now
    num_kept: int = 0  # pass_to_pass that still pass
    fixed: tuple[str, ...] = ()  # the ids of those fail_to_pass that pass now
    feedback: str = ""  # the shortest text that tells the next draft what is wrong
    failure_class: str = ""  # syntax, import, name, type, assertion, exception, timeout, crash
    wall_seconds: float = 0.0


# ---------------------------------------------------------------- localise, draft, patch


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspect:
    """A definition that may hold the fault. Lines count from 1, both ends included, decorators in."""

    path: str  # relative, with forward slashes
    qualname: str  # "Class.method", "function"; "" for a whole module
    start_line: int
    end_line: int
    score: float
    evidence: tuple[str, ...] = ()  # "traceback frame 2", "coverage 1.00", "bm25 7.3"
    is_unwritten: bool = False  # it has no body yet, and failing tests ask for one


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextBundle:
    """What one prompt may say about one suspect. Every part is already within its token budget."""

    suspect: Suspect
    definition: str  # the source of the suspect, as it stands
    header: str  # decorators and signature, up to and with the colon
    imports: str = ""
    enclosing: str = ""  # the class's header and attributes, for a method
    related: tuple[str, ...] = ()  # sources of callees and siblings, most useful first
    failing_tests: tuple[str, ...] = ()  # sources of failing tests
    failure: str = ""  # the trimmed traceback
    symptom: str = ""  # what it says, in a sentence
    num_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One draft, applied or refused."""

    candidate_id: str  # "r1c03": round and number
    round: int
    suspect: Suspect
    sampling_seed: int
    temperature: float
    recurrence_depth: int
    diff: str = ""  # unified diff against the base; empty when refused
    refused: str = ""  # why it never reached a sandbox
    fingerprint: str = ""  # hash of the normalised AST, for duplicates
    num_tokens: int = 0
    overfit_risk: str = ""  # why it may satisfy the tests and repair nothing; tested after all others
    parents: tuple[str, ...] = ()  # candidates that it combines, or whose change it goes on from


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """The winner, as `git apply` takes it."""

    diff: str
    candidate_id: str
    paths: tuple[str, ...]
    num_changed_lines: int
    is_advisory: bool = False  # it satisfies a test that was drafted from the issue and nobody has confirmed
