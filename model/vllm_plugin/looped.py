"""Every looped family under vLLM: one decoder that a `LoopedConfig` shapes, with a depth for each request.

The passes are driven as in `model.network.looped`, by the same `Halting` and `LoopParts`; here rows of many
requests run together, and rows that are done leave the batch between passes.
Shapes: T rows of the batch, A rows of a pass, D the residual's width, L passes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.logger import init_logger
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import SupportsQuant
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix
from vllm.sequence import IntermediateTensors

from model.config import LoopedConfig
from model.exceptions import EngineSetupError
from model.memory import KVDtype, start_line
from model.parts import LoopParts
from model.vllm_plugin.attention import LoopedAttention
from model.vllm_plugin.batch import LoopBatch
from model.vllm_plugin.block import LoopedBlock, Summands, joined, make_norm
from model.vllm_plugin.failures import failure_noted
from model.vllm_plugin.passes import Passes
from model.vllm_plugin.reports import LoopTrace
from model.vllm_plugin.setup import START_HINT, checked_config
from model.vllm_plugin.weights import served_tensors

logger = init_logger(__name__)
_FUSED_ATTENTION = {
    ".q_proj": (".qkv_proj", "q"),
    ".k_proj": (".qkv_proj", "k"),
    ".v_proj": (".qkv_proj", "v"),
}
_FUSED_MLP = {".gate_proj": (".gate_up_proj", 0), ".up_proj": (".gate_up_proj", 1)}


class LoopedModel(nn.Module):
    """Embedding, prelude, core, coda."""

    def __init__(self, config: LoopedConfig, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.config = config
        block = config.block
        self.embed_tokens = VocabParallelEmbedding(
            config.vocab_size,
            block.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.embed_tokens",
        )
        self.layers = nn.ModuleList(
            LoopedBlock(config, vllm_config, layer, f"{prefix}.layers") for layer in range(config.num_layers)
        )
        self.parts = LoopParts(config)
        if config.has_final_norm:
            self.parts.final_norm = make_norm(block)  # type: ignore[assignment]
        self.value_embeddings = nn.ModuleDict(
            {
                str(layer): VocabParallelEmbedding(
                    config.vocab_size, block.num_key_value_heads * block.head_dim
                )
                for layer in config.value_embedding_layers
            }
        )

    def run_layers(
        self,
        layers: Sequence[int],
        x_AD: Summands,
        positions_A: torch.Tensor,
        ids_A: torch.Tensor | None,
        pass_index: int,
    ) -> Summands:
        """Return the rows after these layers. May overwrite `x_AD`."""
        hidden_AD, residual_AD = x_AD
        for layer in layers:
            values = self._token_values(layer, ids_A)
            hidden_AD, residual_AD = self.layers[layer](
                hidden_AD, residual_AD, positions_A, pass_index, values
            )
        return hidden_AD, residual_AD

    def attention(self, layer: int) -> LoopedAttention:
        """Return a layer's attention."""
        return cast("LoopedAttention", self.layers[layer].self_attn)

    def _token_values(self, layer: int, ids_A: torch.Tensor | None) -> torch.Tensor | None:
        key = str(layer)
        if key not in self.value_embeddings:
            return None
        if ids_A is None:
            raise EngineSetupError(f"{self.config.family} needs token ids: it takes no prompt embeddings")
        share = self.attention(layer).num_kv_heads * self.config.block.head_dim
        start = get_tensor_model_parallel_rank() * share
        return self.value_embeddings[key](ids_A)[:, start : start + share]


class LoopedForCausalLM(nn.Module, SupportsQuant):
    """A looped decoder that runs the core as often as each request asks."""

    packed_modules_mapping: ClassVar[dict[str, list[str]]] = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        with failure_noted():
            self.loop = config = checked_config(vllm_config)
        self.quant_config = vllm_config.quant_config
        dtype = str(vllm_config.model_config.dtype).removeprefix("torch.")
        logger.info(start_line(config, cast("KVDtype", dtype)))
        self.model = LoopedModel(config, vllm_config, maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.block.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size, scale=config.logit_scale)
        self.trace: LoopTrace | None = None  # of the last batch that wanted one

    @staticmethod
    def get_model_state_cls() -> type:
        """Return what feeds depths to `forward` under vLLM's runner V2 (CUDA)."""
        from model.vllm_plugin.model_state import LoopedModelState

        return LoopedModelState

    def embed_input_ids(self, input_ids: torch.Tensor | None) -> torch.Tensor:
        """Return the tokens' embeddings (T, D), before their scale."""
        return self.model.embed_tokens(input_ids)

    def compute_logits(self, hidden_TD: torch.Tensor) -> torch.Tensor | None:
        """Return logits (T, V) on the ranks that sample."""
        return self.logits_processor(self.lm_head, hidden_TD)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Load a checkpoint in its family's published layout.

        Raises:
            CheckpointError: it does not hold what its config promises.
        """
        block = self.loop.block
        fused: dict[str, tuple[str, int | str]] = {}
        if block.moe is None or not block.moe.num_attention_experts:
            fused |= _FUSED_ATTENTION
        if block.mlp == "swiglu":
            fused |= _FUSED_MLP
        mapper = WeightsMapper(orig_to_new_stacked=fused)
        served = served_tensors(self.loop, weights, is_quantised=self.quant_config is not None)
        with failure_noted():
            return AutoWeightsLoader(self).load_weights(served, mapper=mapper)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        loop_batch: LoopBatch | None = None,
    ) -> torch.Tensor:
        """Return what the head reads (T, D).

        Args:
            input_ids: (T,)
            positions: (T,)
            intermediate_tensors: belongs to pipeline parallelism, which is refused.
            inputs_embeds: (T, D) instead of input_ids.
            loop_batch: the requests' depths and exits.

        Raises:
            EngineSetupError: the runner gave no batch.
        """
        if loop_batch is None:
            raise EngineSetupError("the model runner passes no recurrence depths", hint=START_HINT)
        config = self.loop
        hidden_TD = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        if config.embedding_scale != 1.0:
            hidden_TD = hidden_TD * config.embedding_scale
        run = Passes(self, positions, input_ids, loop_batch)
        x_TD = self.model.run_layers(range(config.core_start), (hidden_TD, None), positions, input_ids, 0)
        x_TD = self._plain_core(x_TD, run) if config.is_plain_at_depth_1 else (self._core(x_TD, run), None)
        self.trace = run.trace
        coda = range(config.core_stop, config.num_layers)
        return self._read_out(self.model.run_layers(coda, x_TD, positions, input_ids, 0))

    def _core(self, x_TD: Summands, run: Passes) -> torch.Tensor:
        """Return what the coda reads (T, D)."""
        input_TD = self.model.parts.core_input(joined(x_TD))
        state_TD = self.model.parts.initial_state(input_TD, run.positions_T)
        core = list(self.loop.core_layers)
        for layers in [core] if self.loop.loop_order == "model" else [[layer] for layer in core]:
            state_TD = run.window(layers, state_TD, input_TD)
        return state_TD

    def _plain_core(self, x_TD: Summands, run: Passes) -> Summands:
        """Return the same for a dense checkpoint, whose rows of depth 1 keep the stock model's rounding.

        The fused add-norm rounds the sum of its arguments less than a sum of its own would.
        """
        layers = list(self.loop.core_layers)
        is_looped = run.batch.deepest > 1 or run.trace is not None
        input_TD = joined(x_TD).clone() if is_looped else x_TD[0]
        plain_TD = self.model.run_layers(layers, x_TD, run.positions_T, run.ids_T, 0)
        if not is_looped:
            return plain_TD
        out_TD = run.window(layers, input_TD, input_TD, natural_TD=joined(plain_TD))
        is_deep_T1 = run.depth_T[:, None] > 1
        hidden_TD, residual_TD = plain_TD
        residual_TD = None if residual_TD is None else residual_TD.masked_fill(is_deep_T1, 0.0)
        return torch.where(is_deep_T1, out_TD, hidden_TD), residual_TD

    def _read_out(self, x_TD: Summands) -> torch.Tensor:
        hidden_TD, residual_TD = x_TD
        if residual_TD is None or not self.model.parts.norms_read_out:
            return self.model.parts.read_out(joined(x_TD))
        return self.model.parts.final_norm(hidden_TD, residual_TD)[0]
