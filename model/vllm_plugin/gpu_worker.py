"""vLLM's GPU worker under runner V2, which sends what the loop did to requests along with their tokens."""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu_worker import Worker

from model.exceptions import EngineSetupError


class LoopedGPUWorker(Worker):
    """The stock worker; runner V2 finds the model's own `LoopedModelState` by itself."""

    def init_device(self) -> None:
        """Set the device up as the stock worker does.

        Raises:
            EngineSetupError: the engine was told to use runner V1, which knows no state of a model's own.
        """
        if not self.use_v2_model_runner:
            raise EngineSetupError(
                "the looped model runs on a GPU under model runner V2 only",
                hint="Unset VLLM_USE_V2_MODEL_RUNNER, or set it to 1.",
            )
        super().init_device()

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample as the stock worker does, and send along what the loop has done to requests so far."""
        output = super().sample_tokens(grammar_output)
        trace = self.model_runner.model.trace
        reporter = self.model_runner.model_state.reporter
        if trace is not None:
            reporter.add(trace)
        if output is not None:  # tokens may still be on their way from the device, and reports go with them
            reporter.send_with(getattr(output, "model_runner_output", output))
        return output

    def compact_rows(self, is_on: bool) -> None:
        """Switch between rows leaving the batch and rows running along masked; for `collective_rpc`."""
        self.model_runner.model_state.compacts_rows = is_on
