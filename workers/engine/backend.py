"""vLLM behind a narrow interface: tokens in, text out, one sample at a time. Tests script the inside."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from pipeline.core import Prompt, Sampling, Step
from pipeline.exceptions import EngineDeadError, GeneratorError, InputError, ModelUnavailableError
from workers.engine.settings import EngineSettings

FinishReason = Literal["stop", "length", "repetition", "abort"]
# A loop is cut when 12 to 96 tokens stand four times in a row. None of the 17,656 functions of Python's own
# library and of the real cases does that; from 8 tokens on 7 do, and three times in a row 6.
_LOOP = {"min_pattern_size": 12, "max_pattern_size": 96, "min_count": 4}


@dataclass(frozen=True, slots=True)
class Piece:
    """What one sample gained in one step."""

    text: str
    num_tokens: int
    finish_reason: FinishReason | None = None  # None: it goes on
    steps: tuple[Step, ...] = ()  # where the sampling asks for alternatives


class Backend(Protocol):
    """An inference engine that runs many samples at once."""

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's tokens, chat template and prefill included."""
        ...

    def check(self, sampling: Sampling) -> None:
        """Raise InputError where the engine cannot sample like this."""
        ...

    def stream(
        self, request_id: str, tokens: list[int], sampling: Sampling, seed: int
    ) -> AsyncGenerator[Piece, None]:
        """Draft one sample. Closing the stream aborts it. Raises EngineDeadError when the engine dies."""
        ...

    @property
    def is_dead(self) -> bool:
        """Whether the engine can never answer again."""
        ...

    def shutdown(self) -> None:
        """End the engine's processes."""
        ...


class VllmBackend:
    """vLLM's AsyncLLM on a checkpoint, looped where the settings name a loop."""

    def __init__(self, settings: EngineSettings) -> None:
        """Start the engine; takes most of a minute on a CPU.

        Raises:
            ModelUnavailableError: the checkpoint cannot be served.
        """
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        from model.exceptions import ModelError
        from model.vllm_plugin.failures import failure_told

        self._loop = settings.loop
        try:
            with failure_told():
                self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_args(settings)))
        except ModelError as error:
            raise ModelUnavailableError(str(error), hint=error.hint) from error
        self._tokenizer = self._engine.get_tokenizer()
        if not self._tokenizer.chat_template:
            self.shutdown()
            raise ModelUnavailableError(
                f"the tokenizer at {settings.model_path} has no chat template",
                hint="Choose an instruction-tuned checkpoint.",
            )

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's tokens, chat template and prefill included."""
        messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
        text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._tokenizer.encode(text + prompt.prefill, add_special_tokens=False)

    def check(self, sampling: Sampling) -> None:
        """Raise InputError where the engine cannot sample like this."""
        from vllm.exceptions import VLLMClientError

        try:
            self._sampling_params(sampling, sampling.seed)
        except (ValueError, VLLMClientError) as error:
            raise InputError(str(error), hint=getattr(error, "hint", "")) from error

    async def stream(
        self, request_id: str, tokens: list[int], sampling: Sampling, seed: int
    ) -> AsyncGenerator[Piece, None]:
        """Draft one sample. Closing the stream aborts it."""
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError as VllmDeadError
        from vllm.v1.engine.exceptions import EngineGenerateError

        prompt = {"prompt_token_ids": tokens}
        outputs = self._engine.generate(prompt, self._sampling_params(sampling, seed), request_id)
        try:
            async for output in outputs:
                (sample,) = output.outputs
                steps = _steps(sample.token_ids, sample.logprobs) if sample.logprobs else ()
                yield Piece(sample.text, len(sample.token_ids), _finish_reason(sample.finish_reason), steps)
        except VllmDeadError as error:
            raise EngineDeadError("the engine died while it drafted") from error
        except EngineGenerateError as error:
            raise GeneratorError(f"the engine failed: {error.__cause__ or error}") from error
        except (ValueError, VLLMClientError) as error:
            raise InputError(f"the engine refused the request: {error}") from error
        finally:
            await outputs.aclose()

    @property
    def is_dead(self) -> bool:
        """Whether the engine can never answer again."""
        return self._engine.errored

    def shutdown(self) -> None:
        """End the engine's processes."""
        self._engine.shutdown(timeout=0)

    def _sampling_params(self, sampling: Sampling, seed: int) -> Any:
        """Return vLLM's form of `sampling`; raises ValueError for a value it does not take."""
        from vllm import SamplingParams
        from vllm.sampling_params import (
            RepetitionDetectionParams,
            RequestOutputKind,
            StructuredOutputsParams,
        )

        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            seed=seed,
            max_tokens=sampling.max_tokens,
            stop=list(sampling.stop),
            logprobs=sampling.num_alternatives or None,
            output_kind=RequestOutputKind.DELTA,
            repetition_detection=RepetitionDetectionParams(**_LOOP),
            structured_outputs=(
                StructuredOutputsParams(grammar=sampling.grammar) if sampling.grammar is not None else None
            ),
            extra_args=self._extra_args(sampling.recurrence_depth),
        )

    def _extra_args(self, depth: int) -> dict[str, Any] | None:
        if self._loop is None:
            if depth != 1:
                raise InputError(
                    f"recurrence_depth must be 1 on an engine without a loop, got {depth!r}",
                    hint="Start the engine with a larger max_recurrence_depth.",
                )
            return None
        from model.vllm_plugin.serving import request_kwargs

        return request_kwargs(self._loop, depth)


def engine_args(settings: EngineSettings, *, has_metrics: bool = False) -> dict[str, Any]:
    """Return the arguments of vLLM's AsyncEngineArgs for these (resolved) settings.

    `has_metrics` keeps what the loop does to tokens as Prometheus metrics.
    """
    arguments: dict[str, Any] = {
        "model": settings.model_path,
        "dtype": settings.dtype,
        "max_model_len": settings.max_model_tokens,
        "max_num_seqs": settings.max_num_seqs,
        "enable_prefix_caching": settings.enable_prefix_caching,
        "seed": settings.seed,
        "disable_log_stats": True,
    }
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        # With a KV cache of a given size and without compilation, vLLM skips its warm-up on a CPU.
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": settings.kv_cache_bytes}
        # vLLM takes 128 by itself. Of a cached prefix the last, partial block is computed anew for every
        # sample, and our drafts are many and short. The CPU kernels take multiples of 32 and no less.
        arguments["block_size"] = 32
    if settings.loop is not None:
        from model.vllm_plugin.serving import assert_registered, engine_kwargs

        assert_registered()
        arguments |= engine_kwargs(settings.loop, has_metrics=has_metrics)
    return arguments


def _steps(token_ids: Sequence[int], logprobs: Sequence[Mapping[int, Any]]) -> tuple[Step, ...]:
    """Return the steps of these tokens; vLLM maps ids, their own and the likeliest, to text and logprob."""
    steps = []
    for token_id, known in zip(token_ids, logprobs, strict=True):
        own = known[token_id]
        others = sorted((other for i, other in known.items() if i != token_id), key=lambda other: other.rank)
        alternatives = tuple((other.decoded_token or "", other.logprob) for other in others)
        steps.append(Step(own.decoded_token or "", own.logprob, alternatives))
    return tuple(steps)


def _finish_reason(reason: str | None) -> FinishReason | None:
    match reason:
        case None | "stop" | "length" | "repetition":
            return reason
        case _:
            return "abort"
