"""Which repositories are for development and which are held out: decided by name alone."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from pipeline.bench.recipe import Split
from pipeline.exceptions import InputError


def split_of(
    project: str,
    *,
    held_out_share: float,
    seed: int = 0,
    dev: Collection[str] = (),
    held_out: Collection[str] = (),
) -> Split:
    """Return the part that a project belongs to; `dev` and `held_out` name projects whose part is given.

    Otherwise a hash of seed and name decides, so that a project stays where it is when others are added.

    Raises:
        InputError: a project is named in both.
    """
    if project in dev and project in held_out:
        raise InputError(f"{project} cannot be both for development and held out")
    if project in dev or project in held_out:
        return "dev" if project in dev else "held_out"
    digest = hashlib.sha256(f"{seed}:{project}".encode()).digest()
    return "held_out" if int.from_bytes(digest[:4]) < held_out_share * 2**32 else "dev"
