"""The reference network as the conformance suite sees a model; the example to copy for your own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model.config import LoopedConfig
from model.exits import ExitRequest
from model.network import KVCache, LoopedNetwork
from model.testing.under_test import Claims, Fed


class NetworkUnderTest:
    """A `LoopedNetwork` as a `LoopedModel`. It runs a sequence at a time, so a batch is a loop over rows."""

    def __init__(self, network: LoopedNetwork) -> None:
        self.network = network
        config = network.config
        self.claims = Claims(
            vocab_size=config.vocab_size,
            max_depth=config.max_recurrence_depth,
            is_chunk_invariant=config.is_chunk_invariant,
            is_depth_nested=config.is_depth_nested or (False if _reads_its_depth(config) else None),
            exit_rules=config.exit_rules,
            min_exit_depth=config.num_shared_slots if config.kv_policy == "first_then_shared" else 1,
        )

    def begin(self, max_tokens: int) -> NetworkSequence:
        """Begin a sequence."""
        return NetworkSequence(self.network, KVCache(max_tokens))

    def plain(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """Return the logits of embedding, layers in turn, norm and head."""
        network, ids_T, positions_T = self.network, torch.tensor(token_ids), torch.arange(len(token_ids))
        parts, config, cache = network.parts, network.config, KVCache(len(token_ids))
        x_TD = network.embed_tokens(ids_T) * config.embedding_scale
        for layer, block in enumerate(network.layers):
            if layer == config.core_start:
                input_TD = parts.core_input(x_TD)
                x_TD = parts.pass_input(parts.initial_state(input_TD, positions_T), input_TD, positions_T, 0)
            token_values = network.value_embeddings
            values = token_values[str(layer)](ids_T) if str(layer) in token_values else None
            x_TD, _ = block(x_TD, positions_T, 0, cache, values)
            if layer == config.core_stop - 1:
                if config.gate == "expert_choice":
                    x_TD = input_TD + parts.routing_weight(input_TD, 0)[:, None] * x_TD
                if config.gate == "token_choice":
                    x_TD = input_TD + parts.chosen_weight(input_TD)[:, None] * x_TD
                x_TD = parts.core_exit(parts.final_norm(x_TD) if config.norms_each_pass else x_TD)
        return network.logits(parts.read_out(x_TD))

    def batch(self, prompts: Sequence[Sequence[int]], depths: Sequence[int]) -> list[torch.Tensor]:
        """Return each prompt's logits."""
        return [
            self.begin(len(prompt)).feed(prompt, depth).logits_TV
            for prompt, depth in zip(prompts, depths, strict=True)
        ]


class NetworkSequence:
    """One sequence of the reference network."""

    def __init__(self, network: LoopedNetwork, cache: KVCache) -> None:
        self._network, self._cache = network, cache

    def feed(
        self, token_ids: Sequence[int], depth: int | Sequence[int], exit_request: ExitRequest | None = None
    ) -> Fed:
        """Take the next tokens."""
        out = self._network(
            torch.tensor(token_ids),
            depth=depth if isinstance(depth, int) else torch.tensor(depth),
            exit_request=exit_request or ExitRequest(),
            cache=self._cache,
        )
        return Fed(out.logits_TV, tuple(out.depth_T.tolist()))

    def keep_passes(self, depth: int) -> None:
        """Forget deeper slots."""
        config = self._network.config
        self._cache.keep_slots(range(config.core_start, config.core_stop), depth)


def _reads_its_depth(config: LoopedConfig) -> bool:
    """Return whether something that leaves keys behind depends on how many passes there are."""
    return config.num_coda_layers > 0 or (
        config.step_rule != "plain"
        and config.kv_policy == "depth_indexed"
        and config.later_attention == "own"
    )
