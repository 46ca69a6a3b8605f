"""What tasks reach outside with, by the settings: sandbox, environments, servers to draft with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.batch.edges import BoundedSandbox
from pipeline.config import EndpointSection, Settings
from pipeline.graph.run import Dependencies
from pipeline.protocols import EnvironmentBuilder, Generator, Sandbox
from pipeline.telemetry import Action, Emit, Event
from workers.environment import PythonEnvironmentBuilder
from workers.openai_generator import EndpointSettings, OpenAIGenerator
from workers.sandbox.breaker import BreakerSandbox
from workers.sandbox.docker_sandbox import DockerSandbox
from workers.sandbox.profiles import HARDENED, read_profile
from workers.sandbox.reaper import ReapingSandbox
from workers.sandbox.selection import image_for, image_tag, select_sandbox

OnTokens = Callable[[int, int, int], None]  # completions done, completions in all, tokens drafted


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The folders of what outlives a command."""

    home: Path
    environments: Path
    clones: Path
    outcomes: Path  # the file where past rounds are kept for the policy
    known_outcomes: Path | None = None  # the one that the policy reads; None: the same
    parts: Path | None = None  # the file of parsed sources; None: nothing is kept
    scores: Path | None = None  # the file of what models judged of sources; None: nothing is kept


async def sandbox_edges(
    settings: Settings, roots: Roots, emit: Emit, *, num_sharing: int = 1
) -> tuple[Sandbox, EnvironmentBuilder]:
    """Return the sandbox and what prepares environments for it.

    Where several tasks share them, the sandboxes of all together are bounded as those of one are, and each
    preparation may take as many times its time.

    Raises:
        EnvironmentBrokenError: no sandbox works.
        InputError: the profile cannot be read.
    """
    emit(Event(Action.STAGE_STARTED, "choosing a sandbox", {"stage": "sandbox"}))

    def tell(line: str) -> None:
        emit(_told(line, "sandbox"))

    found = await select_sandbox(
        settings.sandbox.kind,
        home=roots.home,
        image=image_tag(settings.sandbox),
        profile=read_profile(Path(settings.sandbox.profile)) if settings.sandbox.profile else HARDENED,
        num_warm=settings.sandbox.num_warm,
        on_progress=tell,
    )
    emit(Event(Action.STAGE_FINISHED, f"tests run in {found.name}", {"stage": "sandbox"}))
    reaping = ReapingSandbox(BreakerSandbox(found, settings.sandbox.lost_after_seconds, tell))
    sandbox = BoundedSandbox(reaping, settings.sandbox.num_parallel) if num_sharing > 1 else reaping
    chooses = settings.sandbox.python == "auto" and not settings.sandbox.image
    is_choosing = chooses and isinstance(found, DockerSandbox)
    environments = PythonEnvironmentBuilder(
        sandbox,
        roots.environments,
        # By its id, not its tag: an image that was built anew must not be served the old one's environments.
        image=getattr(found, "image", ""),
        image_for=partial(image_for, home=roots.home, on_progress=tell) if is_choosing else None,
        python="python3" if settings.sandbox.python == "auto" else f"python{settings.sandbox.python}",
        timeout_seconds=settings.sandbox.prepare_timeout_seconds * num_sharing,
        on_progress=lambda line: emit(_told(line, "prepare")),
    )
    return sandbox, environments


async def dependencies(
    settings: Settings,
    roots: Roots,
    generator: Generator,
    edges: tuple[Sandbox, EnvironmentBuilder],
    emit: Emit,
    *,
    num_sharing: int = 1,
    on_tokens: OnTokens | None = None,
) -> Dependencies:
    """Return everything that a run needs, the stronger model included where one is set.

    Raises:
        EnvironmentBrokenError: the stronger model's server does not answer.
    """
    sandbox, environments = edges
    strong = endpoint_generator(settings.strong, on_tokens) if settings.strong.url else None
    if strong is not None:
        await strong.info()
    return Dependencies(
        generator=generator,
        strong=strong,
        sandbox=sandbox,
        environments=environments,
        settings=settings,
        clone_cache=roots.clones,
        outcomes_path=roots.outcomes,
        known_outcomes_path=roots.known_outcomes,
        parts_path=roots.parts,
        scores_path=roots.scores,
        emit=emit,
        num_sharing=num_sharing,
    )


def endpoint_generator(section: EndpointSection, on_tokens: OnTokens | None = None) -> OpenAIGenerator:
    """Return the generator over the server that the section names."""
    endpoint = EndpointSettings(
        url=section.url,
        model=section.model,
        api_key_variable=section.api_key_variable,
        max_model_tokens=section.max_model_tokens,
        max_recurrence_depth=section.max_recurrence_depth,
    )
    return OpenAIGenerator(endpoint, on_progress=on_tokens)


def _told(line: str, stage: str) -> Event:
    text = line.removeprefix("warning: ")
    return Event(Action.PROGRESS if text == line else Action.WARNING, text, {"stage": stage})
