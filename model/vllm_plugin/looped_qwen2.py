"""Qwen2 with a looped window on vLLM's layers: stock weights and layers, one KV cache per (layer, pass)."""

from __future__ import annotations

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.models.qwen2 import Qwen2Attention, Qwen2ForCausalLM
from vllm.model_executor.models.utils import maybe_prefix
from vllm.sequence import IntermediateTensors

from model.exceptions import EngineSetupError, LoopConfigError
from model.loop import LoopConfig
from model.recurrence import run_passes
from model.vllm_plugin.serving import LOOP_KEY, admission_class

_HINT = "Start the engine with the arguments of model.vllm_plugin.serving.engine_kwargs."


class AttentionPerPass(nn.Module):
    """Stands where a layer's `Attention` stood: one `Attention`, hence one KV cache, for each pass."""

    def __init__(self, passes: list[Attention]) -> None:
        super().__init__()
        self.passes = nn.ModuleList(passes)
        self.current_pass = 0  # set by the model before it runs the layer

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Attend within the current pass."""
        return self.passes[self.current_pass](query, key, value)


class LoopedQwen2ForCausalLM(Qwen2ForCausalLM):
    """A Qwen2 checkpoint whose window of layers runs as often as each request asks.

    A batch whose requests all have depth 1 takes the stock path, operation by operation.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        loop = checked_loop(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.loop = loop
        layers_prefix = f"{maybe_prefix(prefix, 'model')}.layers"
        for layer_index in range(self.loop.window_start, self.loop.window_stop):
            attention = self.model.layers[layer_index].self_attn
            first_spare_index = len(self.model.layers) + layer_index - self.loop.window_start
            attention.attn = _attention_per_pass(
                attention, vllm_config, self.loop, layers_prefix, first_spare_index
            )

    @staticmethod
    def get_model_state_cls() -> type:
        """Return what feeds depths to `forward` under vLLM's runner V2 (CUDA)."""
        from model.vllm_plugin.model_state import LoopedModelState

        return LoopedModelState

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
        recurrence_depth: torch.Tensor | None = None,
        deepest_recurrence: int = 1,
    ) -> torch.Tensor:
        """Return the final hidden states (T, D).

        Args:
            input_ids: (T,)
            positions: (T,)
            intermediate_tensors: belongs to pipeline parallelism, which is refused.
            inputs_embeds: (T, D) instead of input_ids.
            recurrence_depth: int32 buffer of at least T entries, each token's depth.
            deepest_recurrence: the largest depth of the batch.

        Raises:
            EngineSetupError: the runner gave no depths.
        """
        if recurrence_depth is None:
            raise EngineSetupError("the model runner passes no recurrence depths", hint=_HINT)
        hidden = self.model.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        start, stop = self.loop.window_start, self.loop.window_stop
        hidden, residual = self._run_layers(positions, hidden, None, 0, start)
        hidden, residual = self._run_window(
            positions, hidden, residual, recurrence_depth[: hidden.shape[0]], deepest_recurrence
        )
        hidden, residual = self._run_layers(positions, hidden, residual, stop, len(self.model.layers))
        hidden, _ = self.model.norm(hidden, residual)
        return hidden

    def _run_window(
        self,
        positions: torch.Tensor,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        depth_T: torch.Tensor,
        deepest: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if deepest == 1:
            return self._run_pass(0, positions, hidden, residual)
        # Taken before the pass: the fused add-RMSNorm overwrites hidden and residual in place.
        x_TD = hidden.clone() if residual is None else hidden + residual
        hidden, residual = self._run_pass(0, positions, hidden, residual)
        first_TD = hidden + residual

        def run_window(k: int, state_TD: torch.Tensor) -> torch.Tensor:
            hidden, residual = self._run_pass(k, positions, state_TD.clone(), None)
            return hidden + residual

        out_TD = run_passes(run_window, x_TD, first_TD, depth_T, deepest, self.loop)
        # Rows of depth 1 keep the unsummed pair, and with it the stock model's rounding.
        is_looped_T1 = depth_T[:, None] > 1
        return torch.where(is_looped_T1, out_TD, hidden), residual.masked_fill(is_looped_T1, 0.0)

    def _run_pass(
        self, k: int, positions: torch.Tensor, hidden: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        start, stop = self.loop.window_start, self.loop.window_stop
        for layer in self.model.layers[start:stop]:
            layer.self_attn.attn.current_pass = k
        hidden, residual = self._run_layers(positions, hidden, residual, start, stop)
        assert residual is not None
        return hidden, residual

    def _run_layers(
        self,
        positions: torch.Tensor,
        hidden: torch.Tensor,
        residual: torch.Tensor | None,
        start: int,
        stop: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        for layer in self.model.layers[start:stop]:
            hidden, residual = layer(positions, hidden, residual)
        return hidden, residual


def checked_loop(vllm_config: VllmConfig) -> LoopConfig:
    """Return the engine's loop.

    Raises:
        EngineSetupError: the engine lacks the loop's settings or the check of requests, or uses a feature
            that would run the loop wrongly.
        LoopConfigError: the window does not lie inside the checkpoint.
    """
    config = vllm_config.model_config.hf_config
    if not isinstance(getattr(config, LOOP_KEY, None), dict):
        raise EngineSetupError("the engine's configuration holds no loop settings", hint=_HINT)
    loop = LoopConfig.from_json_dict(getattr(config, LOOP_KEY))
    if loop.window_stop > config.num_hidden_layers:
        raise LoopConfigError(
            f"the window ends at layer {loop.window_stop}, the checkpoint at {config.num_hidden_layers}"
        )
    if admission_class(loop) not in (vllm_config.model_config.logits_processors or []):
        raise EngineSetupError("nothing checks the depth of requests at admission", hint=_HINT)
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        # A rank would loop over its own part of the window only, which is another function.
        raise EngineSetupError("a loop cannot be split over pipeline ranks", hint="Set them to 1.")
    if vllm_config.speculative_config is not None:
        raise EngineSetupError("speculative decoding does not know recurrence depths; turn it off")
    return loop


def _attention_per_pass(
    attention: Qwen2Attention,
    vllm_config: VllmConfig,
    loop: LoopConfig,
    layers_prefix: str,
    first_spare_index: int,
) -> AttentionPerPass:
    """Return the layer's own `Attention` and one more for each further pass.

    vLLM finds a KV cache by the layer index in the prefix, so each pass gets an index that no layer has.
    """
    spare_indices = range(
        first_spare_index,
        first_spare_index + (loop.max_recurrence_depth - 1) * loop.num_window_layers,
        loop.num_window_layers,
    )
    further = [
        Attention(
            attention.num_heads,
            attention.head_dim,
            attention.scaling,
            num_kv_heads=attention.num_kv_heads,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{layers_prefix}.{index}.self_attn.attn",
        )
        for index in spare_indices
    ]
    return AttentionPerPass([attention.attn, *further])
