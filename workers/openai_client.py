"""Requests to an OpenAI-compatible server: the key, the retries, and its refusals as our errors."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from pipeline.exceptions import EnvironmentBrokenError, GeneratorError, InputError

_NUM_ATTEMPTS = 4
_LONGEST_WAIT_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_RETRIED_STATUSES = {408, 409, 425, 429, 500, 502, 503, 504}


class _TemporaryError(Exception):
    """Worth another attempt."""

    def __init__(self, message: str, retry_after_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class OpenAIClient:
    """A connection pool to one server; an asynchronous context manager."""

    def __init__(
        self,
        url: str,
        *,
        api_key_variable: str,
        timeout_seconds: float,
        retry_wait_seconds: float,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        key = os.environ.get(api_key_variable)
        self._url = url
        self._api_key_variable = api_key_variable
        self._backoff = wait_random_exponential(multiplier=retry_wait_seconds, max=_LONGEST_WAIT_SECONDS)
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/") + "/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(timeout_seconds, connect=_CONNECT_SECONDS),
            transport=transport,
        )

    async def __aenter__(self) -> OpenAIClient:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        await self._client.__aexit__(kind, error, trace)

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer's JSON object. What may pass is tried again.

        Raises:
            InputError: the server refuses the request.
            EnvironmentBrokenError: it does not take the key.
            GeneratorError: it failed every time, or answered no JSON.
        """
        attempts = AsyncRetrying(
            retry=retry_if_exception_type(_TemporaryError),
            stop=stop_after_attempt(_NUM_ATTEMPTS),
            wait=self._wait,
            reraise=True,
        )
        try:
            return await attempts(self._request_once, method, path, body)
        except _TemporaryError as error:
            raise GeneratorError(
                f"{self._url} failed {_NUM_ATTEMPTS} times: {error}",
                hint="Is the server up, and endpoint.url right?",
            ) from error

    async def _request_once(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        try:
            response = await self._client.request(method, path, json=body)
        except httpx.TransportError as error:
            raise _TemporaryError(f"{type(error).__name__} {error}") from error
        if response.is_success:
            return _json_object(response)
        message = f"{response.status_code} {_error_message(response)}"
        if response.status_code in _RETRIED_STATUSES:
            raise _TemporaryError(message, _retry_after_seconds(response))
        if response.status_code in (401, 403):
            raise EnvironmentBrokenError(
                f"{self._url} refuses the key: {message}",
                hint=f"Put a valid key into the variable {self._api_key_variable}.",
            )
        raise InputError(f"{self._url} refuses the request: {message}")

    def _wait(self, state: RetryCallState) -> float:
        """Return the seconds before the next attempt: random and growing, or what the server asks."""
        assert state.outcome is not None
        error = state.outcome.exception()
        asked = error.retry_after_seconds if isinstance(error, _TemporaryError) else 0.0
        return max(self._backoff(state), min(asked, _LONGEST_WAIT_SECONDS))


def _retry_after_seconds(response: httpx.Response) -> float:
    try:
        return float(response.headers.get("retry-after", "0"))
    except ValueError:  # a date; the backoff will do
        return 0.0


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError as error:
        raise GeneratorError(f"{response.url} answered no JSON: {response.text[:200]!r}") from error
    if not isinstance(answer, dict):
        raise GeneratorError(f"{response.url} answered no JSON object: {response.text[:200]!r}")
    return answer


def _error_message(response: httpx.Response) -> str:
    """Return the server's own words, in the forms that OpenAI, vLLM and proxies use."""
    try:
        answer = response.json()
        error = answer.get("error", answer)
        return str(error.get("message", error))[:500]
    except (ValueError, AttributeError):
        return response.text[:500]
