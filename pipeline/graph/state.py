"""What flows along the graph. Nodes work on typed values; the checkpoint holds the same as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from pipeline.change import Change
from pipeline.core import Candidate, ContextBundle, PreparedEnvironment, Suspect, TestCase
from pipeline.graph.partials import Partial
from pipeline.policy.arms import ArmStats
from pipeline.policy.choice import Choice
from pipeline.runs import CandidateRecord, RoundRecord, RunRecord


class Attempt(BaseModel):
    """The best failing candidate of a suspect so far: what a revision shows the model."""

    rank: int  # lower is better
    code: str
    error: str


class Drafted(BaseModel):
    """What a candidate is, beside its record."""

    change: Change  # against the base, whatever tree it was drafted on
    code: str  # what its answer made of the suspect


class Footing(BaseModel):
    """What a round's drafts start from in place of the base: the tree of a partial candidate."""

    candidate_id: str
    change: Change
    failures: list[TestCase]  # of the target tests that still fail there
    covered: dict[str, list[int]]  # path -> lines that these ran
    suspects: list[Suspect] = Field(default_factory=list)


class Progress(BaseModel):
    """Everything that a node may need to know of the nodes before it."""

    model_config = ConfigDict(extra="forbid", ser_json_bytes="base64", val_json_bytes="base64")

    record: RunRecord
    environment: PreparedEnvironment | None = None
    laid: dict[str, bytes] = Field(default_factory=dict)  # files over the exported tree, for all that follows
    covered: dict[str, list[int]] = Field(default_factory=dict)  # path -> lines that the failing tests ran
    suspicion: dict[str, dict[int, float]] = Field(default_factory=dict)  # path -> line -> Ochiai, of these
    bundles: list[ContextBundle] = Field(default_factory=list)  # of this round, one for each prompt
    drafted: dict[str, Drafted] = Field(default_factory=dict)  # of this round, by candidate id
    attempts: dict[str, Attempt] = Field(default_factory=dict)  # by suspect
    arm_stats: list[ArmStats] = Field(default_factory=list)  # of each rung; empty: the ladder's order holds
    next_rung: Choice | None = None  # None: the ladder is at its end
    partials: list[Partial] = Field(default_factory=list)  # of all rounds, best first
    footing: Footing | None = None  # None: drafts start from the base
    use_feedback: bool = False  # the next prompts show the attempts
    limit: str = ""  # the name of the limit that was hit

    @property
    def suspects(self) -> list[Suspect]:
        """The definitions to draft for, where the drafts start from."""
        return self.footing.suspects if self.footing else self.record.suspects

    @property
    def round(self) -> RoundRecord:
        """The round that is going on."""
        return self.record.rounds[-1]

    def offer_attempt(self, suspect: Suspect, attempt: Attempt) -> None:
        """Keep the attempt where it is better than the suspect's best so far."""
        best = self.attempts.get(suspect_key(suspect))
        if best is None or attempt.rank < best.rank:
            self.attempts[suspect_key(suspect)] = attempt

    def candidate_record(self, candidate_id: str) -> CandidateRecord:
        """Return the record of one of this round's candidates."""
        return next(r for r in self.round.candidates if r.candidate.candidate_id == candidate_id)

    def earlier_candidates(self) -> list[Candidate]:
        """Return the candidates of all rounds, in the order in which they were drafted."""
        return [r.candidate for round_ in self.record.rounds for r in round_.candidates]


class State(TypedDict):
    """The graph's only channel. No class of ours may end up in a checkpoint, so it is dumped after nodes."""

    progress: dict[str, Any]


def dump(progress: Progress) -> State:
    """Return the progress as the graph keeps it."""
    return {"progress": progress.model_dump(mode="json")}


def load(state: Mapping[str, Any]) -> Progress:
    """Return the progress that the graph kept."""
    return Progress.model_validate(state["progress"])


def suspect_key(suspect: Suspect) -> str:
    """Return a name for the suspect that is the same in every round."""
    return f"{suspect.path}:{suspect.start_line}:{suspect.qualname}"
