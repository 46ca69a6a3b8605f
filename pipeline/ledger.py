"""Pays for nothing twice: finished completions and sandbox runs, kept by the content of their request.

A resumed run asks again for what it had already asked; the ledger answers from its folder. A failure of the
sandbox itself is never kept, so it is tried again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline.core import (
    Completion,
    GeneratorInfo,
    Outcome,
    Prompt,
    Sampling,
    SandboxRequest,
    SandboxResult,
)
from pipeline.protocols import Generator, Sandbox
from pipeline.runs import write_atomically


class _CompletionsEntry(BaseModel):
    completions: list[Completion]


class _SandboxEntry(BaseModel):
    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    result: SandboxResult


_Entry = TypeVar("_Entry", bound=BaseModel)


class LedgerGenerator:
    """A Generator that remembers what was drafted, prompt by prompt."""

    def __init__(self, inner: Generator, folder: Path) -> None:
        self._inner = inner
        self._folder = folder

    async def info(self) -> GeneratorInfo:
        """Return the inner generator's description."""
        return await self._inner.info()

    async def count_tokens(self, prompts: Sequence[Prompt]) -> list[int]:
        """Count with the inner generator; counting is cheap and is not kept."""
        return await self._inner.count_tokens(prompts)

    async def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[Completion]]:
        """Return kept completions, and draft the missing prompts as one batch."""
        model = (await self._inner.info()).model
        paths = [self._path(model, prompt, sampling) for prompt in prompts]
        rows = [_kept(path) for path in paths]
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            drafted = await self._inner.generate([prompts[i] for i in missing], sampling)
            for i, completions in zip(missing, drafted, strict=True):
                rows[i] = row = [_storable(c) for c in completions]
                _write(paths[i], _CompletionsEntry(completions=row))
        return [row for row in rows if row is not None]

    def _path(self, model: str, prompt: Prompt, sampling: Sampling) -> Path:
        key = [model, _plain(Prompt, prompt), _plain(Sampling, sampling)]
        return self._folder / f"completions-{_digest(key)}.json"


class LedgerSandbox:
    """A Sandbox that remembers what its runs did."""

    def __init__(self, inner: Sandbox, folder: Path) -> None:
        self._inner = inner
        self._folder = folder
        self.name = inner.name

    async def run(self, request: SandboxRequest) -> SandboxResult:
        """Return the kept result, or run the request and keep what came of it."""
        path = self._folder / f"sandbox-{request_digest(request)}.json"
        entry = _read(path, _SandboxEntry)
        if entry is not None:
            return entry.result
        result = await self._inner.run(request)
        if result.outcome is not Outcome.INFRA_ERROR:
            _write(path, _SandboxEntry(result=result))
        return result

    async def close(self) -> None:
        """Close the inner sandbox."""
        await self._inner.close()


def request_digest(request: SandboxRequest) -> str:
    """Return a hash of everything that a run depends on; it names the run's entry."""
    # The layers are large and are hashed as they are; the rest is small and goes through JSON.
    layers = [hashlib.sha256(layer).hexdigest() for layer in request.layers]
    return _digest([layers, _plain(SandboxRequest, replace(request, layers=()))])


def _digest(key: list[Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def _plain(kind: type, value: Any) -> Any:
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    return adapter.dump_python(value, mode="json")


def _kept(path: Path) -> list[Completion] | None:
    entry = _read(path, _CompletionsEntry)
    return [replace(one, is_cached=True) for one in entry.completions] if entry else None


def _storable(completion: Completion) -> Completion:
    # Half a surrogate pair is no text: it can be neither kept nor compiled.
    return replace(completion, text=completion.text.encode("utf-8", "replace").decode())


def _read(path: Path, kind: type[_Entry]) -> _Entry | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None  # an entry that an older version wrote counts as missing


def _write(path: Path, entry: BaseModel) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, entry.model_dump_json().encode())
