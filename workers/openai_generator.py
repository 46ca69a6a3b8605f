"""A Generator over any OpenAI-compatible server: a remote vLLM, llama.cpp, Ollama, or a paid service."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from pipeline.core import Completion, GeneratorInfo, Prompt, Sampling, Step
from pipeline.exceptions import GeneratorError, InputError
from workers.openai_client import OpenAIClient

_BYTES_PER_TOKEN = 2.5  # code in today's vocabularies has 3 to 4, so this errs on the safe side
_TOKENS_PER_MESSAGE = 8  # role and separators


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Which server, and what is known of it."""

    url: str  # up to and with /v1
    model: str = ""  # empty: the only one that the server lists
    api_key_variable: str = "OPENAI_API_KEY"  # no key is sent where it is unset
    max_model_tokens: int = 8192  # where the server does not tell
    max_recurrence_depth: int = 1  # above 1 only for a vLLM with loopwright's plugin
    num_parallel: int = 16
    timeout_seconds: float = 600.0  # for one request
    retry_wait_seconds: float = 1.0  # longest before the second attempt; doubles


@dataclass(frozen=True, slots=True)
class _Server:
    model: str
    max_model_tokens: int
    is_vllm: bool


class OpenAIGenerator:
    """Implements `pipeline.protocols.Generator`. Each sample is a request of its own, with its own seed."""

    def __init__(
        self,
        settings: EndpointSettings,
        *,
        on_progress: Callable[[int, int, int], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._server: _Server | None = None
        self.on_progress = on_progress  # completions done, completions in all, tokens drafted

    async def info(self) -> GeneratorInfo:
        """Return what the server serves.

        Raises:
            EnvironmentBrokenError: it does not answer, or not to this key.
            InputError: it lists several models and none was chosen.
        """
        async with self._connect() as client:
            server = await self._ask_server(client)
        return GeneratorInfo(
            model=server.model,
            max_model_tokens=server.max_model_tokens,
            max_recurrence_depth=self._settings.max_recurrence_depth,
        )

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the tokens of each prompt: exact from a vLLM server, a high estimate from any other."""
        async with self._connect() as client:
            server = await self._ask_server(client)
            if not server.is_vllm:
                return [_estimated_tokens(prompt) for prompt in prompts]
            return list(await asyncio.gather(*(self._tokenize(client, server, prompt) for prompt in prompts)))

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return `num_samples` completions for each prompt, in order.

        Raises:
            InputError: the server refuses the sampling or the prompt, or its depth is not served.
            EnvironmentBrokenError: the server does not take the key.
            GeneratorError: the server failed, after its retries.
        """
        self._check(sampling)
        slots = asyncio.Semaphore(self._settings.num_parallel)
        progress = _Progress(len(prompts) * sampling.num_samples, self.on_progress)
        async with self._connect() as client:
            server = await self._ask_server(client)
            if sampling.grammar is not None and not server.is_vllm:
                raise InputError(f"{self._settings.url} takes no grammar")

            async def draft(prompt: Prompt, sample: int) -> Completion:
                async with slots:
                    completion = await self._complete(client, server, prompt, sampling, sample)
                progress.add(completion)
                return completion

            try:
                async with asyncio.TaskGroup() as group:  # the first failure cancels the rest
                    tasks = [
                        [group.create_task(draft(prompt, i)) for i in range(sampling.num_samples)]
                        for prompt in prompts
                    ]
            except* Exception as errors:
                raise errors.exceptions[0] from None
        return [[task.result() for task in row] for row in tasks]

    def _check(self, sampling: Sampling) -> None:
        if not 1 <= sampling.recurrence_depth <= self._settings.max_recurrence_depth:
            raise InputError(
                f"recurrence_depth {sampling.recurrence_depth} is not served by {self._settings.url}, "
                f"which is set up for 1 to {self._settings.max_recurrence_depth}",
                hint="Only a vLLM with loopwright's plugin serves depths above 1; "
                "set endpoint.max_recurrence_depth for it.",
            )

    def _connect(self) -> OpenAIClient:
        return OpenAIClient(
            self._settings.url,
            api_key_variable=self._settings.api_key_variable,
            timeout_seconds=self._settings.timeout_seconds,
            retry_wait_seconds=self._settings.retry_wait_seconds,
            transport=self._transport,
        )

    async def _ask_server(self, client: OpenAIClient) -> _Server:
        """Return what the server says of its models; asked once."""
        if self._server is None:
            models = (await client.request("GET", "models")).get("data") or []
            entry = self._choose(models)
            window = entry.get("max_model_len") or self._settings.max_model_tokens
            self._server = _Server(entry["id"], int(window), entry.get("owned_by") == "vllm")
        return self._server

    def _choose(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        wanted = self._settings.model
        if wanted:  # some servers list nothing, or not everything that they serve
            return next((entry for entry in models if entry.get("id") == wanted), {"id": wanted})
        if len(models) == 1:
            return models[0]
        raise InputError(
            f"{self._settings.url} serves {len(models)} models and none was chosen",
            hint="Set endpoint.model" + (f" to one of {_some_ids(models)}." if models else "."),
        )

    async def _tokenize(self, client: OpenAIClient, server: _Server, prompt: Prompt) -> int:
        body = {"model": server.model, **_messages(prompt, continues=True)}
        answer = await client.request("POST", "../tokenize", body)
        return int(answer["count"])

    async def _complete(
        self, client: OpenAIClient, server: _Server, prompt: Prompt, sampling: Sampling, sample: int
    ) -> Completion:
        started_at = time.monotonic()
        body = self._body(server, prompt, sampling, sample)
        answer = await client.request("POST", "chat/completions", body)
        try:
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text = (choice["message"]["content"] or "").removeprefix(prompt.prefill)
        except (KeyError, IndexError, TypeError) as error:
            raise GeneratorError(
                f"{self._settings.url} answered without a completion: {answer!r:.300}"
            ) from error
        return Completion(
            text=text,
            num_prompt_tokens=usage.get("prompt_tokens") or _estimated_tokens(prompt),
            num_completion_tokens=usage.get("completion_tokens") or _estimated_text_tokens(text),
            finish_reason=_finish_reason(choice.get("finish_reason")),
            recurrence_depth=sampling.recurrence_depth,
            seconds=time.monotonic() - started_at,
            steps=_steps(choice.get("logprobs")),
        )

    def _body(self, server: _Server, prompt: Prompt, sampling: Sampling, sample: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": server.model,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed + sample,
            "max_tokens": sampling.max_tokens,
            **_messages(prompt, continues=server.is_vllm),
        }
        if sampling.stop:
            body["stop"] = list(sampling.stop)
        if (
            sampling.min_p and server.is_vllm
        ):  # no field of OpenAI's own; without it the draws are only wilder
            body["min_p"] = sampling.min_p
        if sampling.num_alternatives and server.is_vllm:  # others could not go on from a branch
            body |= {"logprobs": True, "top_logprobs": sampling.num_alternatives}
        if sampling.grammar is not None:
            body["structured_outputs"] = {"grammar": sampling.grammar}
        if self._settings.max_recurrence_depth > 1:
            depth = sampling.recurrence_depth
            # The salt keeps apart what the server caches for different depths; depth 1 needs it as well.
            body |= {"vllm_xargs": {"recurrence_depth": depth}, "cache_salt": f"loopwright:depth{depth}"}
        return body


class _Progress:
    def __init__(self, num_total: int, report: Callable[[int, int, int], None] | None) -> None:
        self._num_total = num_total
        self._report = report
        self._num_done = 0
        self._num_tokens = 0

    def add(self, completion: Completion) -> None:
        self._num_done += 1
        self._num_tokens += completion.num_completion_tokens
        if self._report is not None:
            self._report(self._num_done, self._num_total, self._num_tokens)


def _messages(prompt: Prompt, *, continues: bool) -> dict[str, Any]:
    """Return the chat fields of a body. `continues`: the server can be told to go on with the prefill."""
    messages = [{"role": message.role, "content": message.content} for message in prompt.messages]
    if not prompt.prefill:
        return {"messages": messages}
    messages.append({"role": "assistant", "content": prompt.prefill})
    if not continues:
        return {"messages": messages}
    return {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def _steps(logprobs: Mapping[str, Any] | None) -> tuple[Step, ...]:
    """Return the `logprobs` of a choice; none where it has none."""
    return tuple(
        Step(
            token["token"],
            token["logprob"],
            tuple(
                (other["token"], other["logprob"])
                for other in token.get("top_logprobs") or []
                if other["token"] != token["token"]
            ),
        )
        for token in (logprobs or {}).get("content") or []
    )


def _finish_reason(reason: str | None) -> Literal["stop", "length", "repetition", "abort"]:
    match reason:
        case "stop" | "length" | "repetition":
            return reason
        case None:
            return "stop"
        case _:  # content_filter, tool_calls, abort
            return "abort"


def _estimated_tokens(prompt: Prompt) -> int:
    texts = [message.content for message in prompt.messages] + [prompt.prefill]
    return sum(_estimated_text_tokens(text) + _TOKENS_PER_MESSAGE for text in texts)


def _estimated_text_tokens(text: str) -> int:
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


def _some_ids(models: list[dict[str, Any]]) -> str:
    return ", ".join(str(entry.get("id")) for entry in models[:5])
