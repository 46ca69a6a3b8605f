"""The composition root: builds the generator, the sandbox and the environment builder of a run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.engine_start import EngineStart, StartingGenerator
from pipeline.cli.home import (
    clones_root,
    engine_root,
    environments_root,
    home_root,
    outcomes_path,
    parts_path,
    scores_path,
)
from pipeline.config import Settings
from pipeline.exceptions import InputError, ModelUnavailableError
from pipeline.protocols import EnvironmentBuilder, Generator, Sandbox
from pipeline.telemetry import Action, Emit, Event
from pipeline.text import size

if TYPE_CHECKING:
    from pipeline.graph.run import Dependencies
    from workers.cluster import ClusterSettings
    from workers.edges import Roots
    from workers.generator import RayGenerator


@asynccontextmanager
async def composed(
    settings: Settings, emit: Emit, folders: Roots | None = None, *, num_sharing: int = 1
) -> AsyncIterator[Dependencies]:
    """Yield everything that a run needs; what was started for it has ended when the block has.

    The local engine starts in the background, while the target is prepared and its tests are run.

    Raises:
        ModelUnavailableError: the model is not on this machine.
        EnvironmentBrokenError: no sandbox works, or the engine's packages are missing.
    """
    from workers.edges import dependencies
    from workers.edges import sandbox_edges as edges_at

    engine = None if settings.endpoint.url else cluster_settings(settings)
    folders = folders or roots()
    edges = await edges_at(settings, folders, emit, num_sharing=num_sharing)
    try:
        async with _generator(settings, engine, emit) as generator:
            yield await dependencies(
                settings,
                folders,
                generator,
                edges,
                emit,
                num_sharing=num_sharing,
                on_tokens=_token_progress(emit),
            )
    finally:
        await edges[0].close()


async def sandbox_edges(settings: Settings, emit: Emit) -> tuple[Sandbox, EnvironmentBuilder]:
    """Return what runs tests: the sandbox, and the builder of environments for it.

    Raises:
        EnvironmentBrokenError: no sandbox works.
    """
    from workers.edges import sandbox_edges as edges_at

    return await edges_at(settings, roots(), emit)


def roots(known_outcomes: Path | None = None) -> Roots:
    """Return the folders of what outlives a command."""
    from workers.edges import Roots

    return Roots(
        home=home_root(),
        environments=environments_root(),
        clones=clones_root(),
        outcomes=outcomes_path(),
        known_outcomes=known_outcomes,
        parts=parts_path(),
        scores=scores_path(),
    )


@asynccontextmanager
async def composed_generator(settings: Settings, emit: Emit) -> AsyncIterator[Generator]:
    """Yield what drafts: the endpoint that the settings name, or the local engine, which starts meanwhile.

    Raises:
        ModelUnavailableError: the model is not on this machine.
        EnvironmentBrokenError: the server does not answer, or the engine's packages are missing.
    """
    engine = None if settings.endpoint.url else cluster_settings(settings)
    async with _generator(settings, engine, emit) as generator:
        yield generator


@asynccontextmanager
async def _generator(
    settings: Settings, engine: ClusterSettings | None, emit: Emit
) -> AsyncIterator[Generator]:
    if engine is None:
        from workers.edges import endpoint_generator

        generator = endpoint_generator(settings.endpoint, _token_progress(emit))
        await generator.info()  # a server that does not answer is told before anything is prepared
        yield generator
        return
    starting = start_generator(engine, emit)
    try:
        yield starting
    finally:
        await asyncio.shield(asyncio.to_thread(starting.close))


def cluster_settings(settings: Settings) -> ClusterSettings:
    """Return what the local engine is started with; `fix` and `up` must agree on it to share one.

    Raises:
        ModelUnavailableError: the model is not on this machine.
        EnvironmentBrokenError: the engine's packages are missing.
    """
    from workers.cluster import ClusterSettings
    from workers.engine.settings import EngineSettings
    from workers.ray_runtime import require_engine

    model_path = find_model(settings)
    require_engine()
    return ClusterSettings(
        engine=EngineSettings(
            model_path=str(model_path),
            max_model_tokens=settings.engine.max_model_tokens,
            max_num_seqs=settings.engine.max_num_seqs,
            max_recurrence_depth=settings.limits.max_recurrence_depth,
            kv_cache_bytes=settings.engine.kv_cache_bytes,
        ),
        state_folder=engine_root(),
        start_timeout_seconds=settings.engine.start_timeout_seconds,
        idle_timeout_seconds=settings.engine.idle_timeout_seconds,
    )


def start_generator(settings: ClusterSettings, emit: Emit) -> StartingGenerator:
    """Start the local engine in the background, or find it warm; return the generator over it at once."""

    def begin(notify: Callable[[str], None]) -> RayGenerator:
        from workers.cluster import connect_or_start

        generator = connect_or_start(settings, notify)
        generator.on_progress = _token_progress(emit)
        return generator

    return StartingGenerator(EngineStart(begin, emit))


def find_model(settings: Settings) -> Path:
    """Return the folder of the model that the settings name: a name of the catalogue, or a path.

    Raises:
        ModelUnavailableError: it is not here; the message says how large it is and how to fetch it.
        InputError: no model has that name.
    """
    from model.exceptions import ModelError
    from model.provision.catalogue import CATALOGUE
    from model.provision.cpu import default_dtype
    from model.provision.provisioning import resolve

    name, dtype = settings.model, settings.model_dtype
    try:
        return resolve(name, dtype)
    except ModelError as exc:
        if name not in CATALOGUE:
            raise InputError(str(exc), hint=exc.hint) from exc
        entry = CATALOGUE[name]
        wanted = default_dtype() if dtype == "auto" else dtype
        raise ModelUnavailableError(
            f"the model {name} ({entry.description}, {entry.license_id}) is not on this machine as {wanted}; "
            f"the download is {size(entry.mirror.num_bytes)} or more, the finished model "
            f"{size(entry.estimated_bytes(wanted))}",
            hint=f"fetch it: loopwright model pull {name} --dtype {wanted}; or add --pull",
        ) from exc


def pull_model(settings: Settings, emit: Emit) -> None:
    """Fetch and convert the model that the settings name, unless it is here.

    Raises:
        ModelError: it cannot be fetched.
        InputError: no model has that name.
    """
    from model.provision.progress import Progress
    from model.provision.provisioning import pull

    try:
        find_model(settings)
        return
    except ModelUnavailableError:
        emit(Event(Action.STAGE_STARTED, f"fetching {settings.model}", {"stage": "model"}))

    def tell(progress: Progress) -> None:
        data = {"stage": "model", "done": progress.done_bytes, "total": progress.total_bytes, "unit": "bytes"}
        emit(Event(Action.PROGRESS, f"{progress.step} {progress.note}".strip(), data))

    pull(settings.model, dtype=settings.model_dtype, on_progress=tell)
    emit(Event(Action.STAGE_FINISHED, f"the model {settings.model} is here", {"stage": "model"}))


def _token_progress(emit: Emit) -> Callable[[int, int, int], None]:
    def tell(num_done: int, num_total: int, num_tokens: int) -> None:
        data = {"stage": "draft", "done": num_done, "total": num_total, "unit": "answers"}
        emit(Event(Action.PROGRESS, f"the model answers, {num_tokens} tokens so far", data))

    return tell
