"""Keeps prefix-cache blocks of different depths apart, shares them where depths nest, and hands reports on.

Every request gets its salt here, whichever way it came in. In a coda-free stack with a slot for each pass,
pass t of a token does not depend on how many follow, so blocks that a deep request filled serve every
shallower one: a block is looked for under the salts of all depths from the request's own upwards.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_utils import BlockHash, KVCacheBlock
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from model.checkpoints.native import CONFIG_KEY
from model.config import LoopedConfig
from model.requests import REPORT_KEY, cache_salt, loop_request
from model.vllm_plugin.reports import REPORTS_ATTRIBUTE


class NestedBlockPool(BlockPool):
    """A pool that finds a block under other hashes, too, while it is told to."""

    aliases: dict[BlockHash, tuple[BlockHash, ...]]

    def get_cached_block(
        self, block_hash: BlockHash, kv_cache_group_ids: list[int]
    ) -> list[KVCacheBlock] | None:
        """Return the block of this hash, or of another that holds the same."""
        for one in (block_hash, *self.aliases.get(block_hash, ())):
            found = super().get_cached_block(one, kv_cache_group_ids)
            if found:
                return found
        return None


class _LoopedScheduling:
    """What both of vLLM's schedulers need for a looped model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        hf_config = self.vllm_config.model_config.hf_config  # type: ignore[attr-defined]
        self._loop = LoopedConfig.from_json_dict(getattr(hf_config, CONFIG_KEY))
        manager = self.kv_cache_manager  # type: ignore[attr-defined]
        self._reports: dict[str, dict[str, Any]] = {}  # the latest of running requests that want one, by id
        self._twins: dict[str, list[Request]] = {}  # requests that were looked up, at larger depths, by id
        pool = manager.block_pool
        if self._loop.is_depth_nested and manager.enable_caching:
            # The coordinator and its managers hold the pool already: it learns to look further in its place.
            pool.__class__ = NestedBlockPool
            pool.aliases = {}
            lookup = manager.get_computed_blocks

            def get_computed_blocks(request: Request) -> Any:
                with self._deeper_blocks(pool, request):
                    return lookup(request)

            manager.get_computed_blocks = get_computed_blocks

    def add_request(self, request: Request) -> None:
        """Salt the request by what its keys and values depend on, and take it."""
        if request.sampling_params is not None:
            asked = loop_request(request.sampling_params.extra_args, self._loop)
            _salt(request, (request.cache_salt or "") + cache_salt(self._loop, asked))
        super().add_request(request)  # type: ignore[misc]

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take the reports that came with a step's tokens, then the tokens."""
        self._reports |= getattr(model_runner_output, REPORTS_ATTRIBUTE, {})
        return super().update_from_output(scheduler_output, model_runner_output)  # type: ignore[misc]

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        transfer, *others = super()._free_request(request, *args, **kwargs)  # type: ignore[misc]
        self._twins.pop(request.request_id, None)
        report = self._reports.pop(request.request_id, None)
        if report is not None:  # the one field that vLLM brings from here into a finished answer, HTTP's too
            transfer = {**(transfer or {}), REPORT_KEY: report}
        return transfer, *others

    def _update_request_as_session(self, session: Request, *args: Any) -> None:
        super()._update_request_as_session(session, *args)  # type: ignore[misc]
        self._twins.pop(session.request_id, None)  # tokens were taken back

    @contextmanager
    def _deeper_blocks(self, pool: NestedBlockPool, request: Request) -> Iterator[None]:
        if request.request_id not in self._twins:
            self._twins[request.request_id] = self._deeper_twins(request)
        twins = self._twins[request.request_id]
        for twin in twins:  # they share the request's tokens; only blocks that are new are hashed
            twin.update_block_hashes()
        deeper = zip(*(twin.block_hashes for twin in twins), strict=True)
        pool.aliases = dict(zip(request.block_hashes, deeper, strict=False))
        try:
            yield
        finally:
            pool.aliases = {}

    def _deeper_twins(self, request: Request) -> list[Request]:
        """Return the request as it would be at each larger depth."""
        asked = loop_request(request.sampling_params.extra_args, self._loop)
        callers_salt = (request.cache_salt or "").removesuffix(cache_salt(self._loop, asked))
        twins = []
        for depth in range(asked.recurrence_depth + 1, self._loop.max_recurrence_depth + 1):
            twin = copy.copy(request)
            _salt(twin, callers_salt + cache_salt(self._loop, replace(asked, recurrence_depth=depth)))
            twins.append(twin)
        return twins


def _salt(request: Request, salt: str) -> None:
    """Give a request a salt, and its blocks the hashes that follow from it."""
    request.cache_salt = salt
    request.block_hashes = []
    request.update_block_hashes()


class LoopedScheduler(_LoopedScheduling, Scheduler):
    """vLLM's scheduler, for looped models."""


class LoopedAsyncScheduler(_LoopedScheduling, AsyncScheduler):
    """vLLM's scheduler that runs ahead of the device, for looped models."""
