"""Which tier reads for a model: what its probe says of it, kept on disk, and the reason in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.ask.probe import Capability
from pipeline.ask.probe_tasks import VERSION
from pipeline.context.reading import Tier
from pipeline.runs import write_atomically

REPL_SHARE = 0.75  # of the tasks: a model that solves fewer writes code that goes astray on long inputs
LEAST_AUC = 0.9  # of yes/no on pieces that hardly anybody could mix up


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True)

    probes: tuple[Capability, ...] = ()


def kept_probes(path: Path) -> Mapping[tuple[str, int], Capability]:
    """Return what is known by model and recurrence depth; what an older probe said is left out."""
    try:
        kept = _Kept.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return {}
    return {(one.model, one.recurrence_depth): one for one in kept.probes if one.version == VERSION}


def keep(path: Path, capability: Capability) -> None:
    """Keep what a probe found, in the place of what was known of that model at that depth."""
    known = {**kept_probes(path), (capability.model, capability.recurrence_depth): capability}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _Kept(probes=tuple(known.values())).model_dump_json(indent=1).encode())


def route(capability: Capability | None) -> tuple[Tier, str]:
    """Return the tier for what does not fit the window, and why."""
    if capability is None:
        return "lexical", "this model was not probed (loopwright model probe)"
    if capability.repl >= REPL_SHARE:
        return "recursive", f"it solves {capability.repl:.0%} of the probe's tasks in a REPL"
    if capability.actions > capability.words and capability.actions > capability.auc:
        return "actions", f"its actions find {capability.actions:.0%}, words alone {capability.words:.0%}"
    if capability.auc >= LEAST_AUC:
        return "descent", f"it tells right from wrong places with an AUC of {capability.auc:.2f}"
    return "lexical", (
        f"in the probe it solves {capability.repl:.0%} in a REPL, finds {capability.actions:.0%} by actions "
        f"(words alone {capability.words:.0%}), and its yes or no has an AUC of {capability.auc:.2f}"
    )
