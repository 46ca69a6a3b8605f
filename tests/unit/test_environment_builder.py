"""What the cache of environments promises. The index and the sandbox are scripted, and record."""

import asyncio
import io
import json
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from pipeline.core import CapturedStream, Outcome, SandboxRequest, SandboxResult
from pipeline.exceptions import InputError, PrepareError
from pipeline.owner import this_process
from pipeline.snapshot import tar_of
from pipeline.testing import RecordingSandbox
from tests.unit.wheels import make_sdist, make_wheel
from workers.environment import PythonEnvironmentBuilder
from workers.environment.wheels import ConflictError, NoWheelError

PROBED = {
    "version": "3.11.7",
    "abi": "cp311",
    "machine": "x86_64",
    "glibc": "2.36",
    "prefix": "/usr",
    "search_path": "/usr/bin:/bin",
}
OWN = ("pytest", "pytest-cov", "setuptools", "wheel", "editables")


def done(text: str = "", collected=None) -> SandboxResult:
    stdout = CapturedStream(head=text.encode(), num_bytes=len(text))
    return SandboxResult(outcome=Outcome.EXITED, exit_code=0, stdout=stdout, collected=collected or {})


def failed(text: str) -> SandboxResult:
    stderr = CapturedStream(head=text.encode(), num_bytes=len(text))
    return SandboxResult(outcome=Outcome.EXITED, exit_code=1, stderr=stderr)


def step_of(request: SandboxRequest) -> str:
    script = " ".join(request.argv)
    steps = {
        "import json": "probe",
        "venv --clear": "install",
        "wheel --no-index": "build",
        "-e .": "project",
    }
    return next(step for mark, step in steps.items() if mark in script)


def mounted(request: SandboxRequest, target: str) -> Path:
    return next(Path(mount.source) for mount in request.mounts if mount.target == target)


class Script:
    """Does what a sandbox would, step by step; `answers` replaces single steps."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.requirements: list[str] = []
        self.constraints: list[str] = []
        self.wheelhouse: list[str] = []

    def __call__(self, request: SandboxRequest) -> SandboxResult:
        step = step_of(request)
        if step in self.answers:
            answer = self.answers[step]
            return answer(request) if callable(answer) else answer
        if step == "probe":
            return done(json.dumps(PROBED))
        if step == "install":
            with tarfile.open(fileobj=io.BytesIO(request.layers[0])) as layer:
                self.requirements = layer.extractfile("requirements.txt").read().decode().split("\n")
                self.constraints = layer.extractfile("constraints.txt").read().decode().split("\n")
            self.wheelhouse = sorted(path.name for path in mounted(request, "/wheelhouse").iterdir())
            python = mounted(request, "/environment") / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.symlink_to("/only/inside/python3")
        return done()


class ScriptedIndex:
    """Has wheels and source archives by name; `is_reachable = False` is a machine without network."""

    def __init__(self) -> None:
        self.wheels = {*OWN, "six"}
        self.sources: set[str] = set()
        self.is_reachable = True
        self.unavailable = ""  # a constraint that cannot be met
        self.constraints: list[tuple[str, ...]] = []  # of each download that had any

    async def download_wheels(self, requirements, constraints, wheelhouse, *, options, on_progress) -> None:
        self._reach()
        if constraints:
            self.constraints.append(tuple(constraints))
        if self.unavailable in constraints:
            raise ConflictError(f"{self.unavailable} cannot be had")
        for line in requirements:
            name = Requirement(line).name
            if not list(wheelhouse.glob(f"{name.replace('-', '_')}-*.whl")):
                if name not in self.wheels:
                    raise NoWheelError(line)
                make_wheel(wheelhouse, name)

    async def download_source(self, requirement, folder, *, options, on_progress) -> Path:
        self._reach()
        if requirement not in self.sources:
            raise NoWheelError(requirement)
        return make_sdist(folder, requirement, "")

    def _reach(self) -> None:
        if not self.is_reachable:
            raise PrepareError("the package index cannot be reached")


@pytest.fixture
def index() -> ScriptedIndex:
    return ScriptedIndex()


def tree(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "tree").mkdir(exist_ok=True)
    for name, text in files.items():
        (tmp_path / "tree" / name.replace("_", ".")).write_text(text)
    return tmp_path / "tree"


def prepare(tmp_path: Path, sandbox: RecordingSandbox, index: ScriptedIndex, **options):
    builder = PythonEnvironmentBuilder(sandbox, tmp_path / "cache", index=index, **options)
    return asyncio.run(builder.prepare(tmp_path / "tree"))


def steps(sandbox: RecordingSandbox) -> list[str]:
    return [step_of(request) for request in sandbox.requests]


def test_requirements_are_installed_and_mounted_read_only(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")
    script = Script()
    sandbox = RecordingSandbox(script)
    environment = prepare(tmp_path, sandbox, index)
    assert script.requirements == ["six", "pytest", "pytest-cov"]
    assert "six-1.0-py3-none-any.whl" in script.wheelhouse
    assert environment.python == "/environment/bin/python"
    assert [(mount.target, mount.read_only) for mount in environment.mounts] == [("/environment", True)]
    assert Path(environment.mounts[0].source).is_relative_to(tmp_path / "cache" / environment.environment_id)
    assert environment.env["PATH"] == "/environment/bin:/usr/bin:/bin"


def test_no_step_has_network_and_each_writes_one_folder_only(tmp_path, index):
    index.sources.add("onlysource")
    tree(tmp_path, requirements_txt="six\nonlysource\n", setup_py="setup(name='p')")

    def build(request: SandboxRequest) -> SandboxResult:
        make_wheel(mounted(request, "/built"), "onlysource")
        return done()

    sandbox = RecordingSandbox(Script(build=build))
    prepare(tmp_path, sandbox, index)
    assert steps(sandbox) == ["probe", "build", "install", "project"]
    assert not any(request.network for request in sandbox.requests)
    writable = [[m.target for m in request.mounts if not m.read_only] for request in sandbox.requests]
    assert writable == [[], ["/built"], ["/environment"], ["/environment"]]


def test_no_step_is_told_a_variable_of_this_machine(tmp_path, index, monkeypatch):
    for name in ("API_TOKEN", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "https://user:secret@example.org/simple")
    tree(tmp_path, requirements_txt="six\n", setup_py="setup(name='p')")
    sandbox = RecordingSandbox(Script())
    prepare(tmp_path, sandbox, index)
    assert steps(sandbox) == ["probe", "install", "project"]
    assert not any(
        "secret" in f"{request.env} {request.argv} {request.layers}" for request in sandbox.requests
    )


def test_second_preparation_runs_nothing_but_the_probe_and_needs_no_index(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")
    first = prepare(tmp_path, RecordingSandbox(Script()), index)
    index.is_reachable = False
    sandbox = RecordingSandbox(Script())
    assert prepare(tmp_path, sandbox, index) == first
    assert steps(sandbox) == ["probe"]


@pytest.mark.parametrize("change", ["requirements", "interpreter", "image", "sandbox", "extra"])
def test_environment_is_not_shared_where_something_that_decides_it_differs(tmp_path, index, change):
    index.wheels.add("attrs")
    tree(tmp_path, requirements_txt="six\n")
    first = prepare(tmp_path, RecordingSandbox(Script()), index, image="a")
    script, sandbox, options = Script(), RecordingSandbox(), {"image": "a"}
    if change == "requirements":
        tree(tmp_path, requirements_txt="six\nattrs\n")
    elif change == "interpreter":
        script = Script(probe=done(json.dumps({**PROBED, "version": "3.11.8"})))
    elif change == "image":
        options["image"] = "b"
    elif change == "sandbox":
        sandbox.name = "another"
    else:
        options["extra_requirements"] = ["attrs"]
    sandbox.respond = script
    assert prepare(tmp_path, sandbox, index, **options).environment_id != first.environment_id
    assert "install" in steps(sandbox)


@pytest.mark.parametrize("lost", ["prepared.json", "environment/bin/python"])
def test_broken_environment_is_built_again(tmp_path, index, lost):
    tree(tmp_path, requirements_txt="six\n")
    first = prepare(tmp_path, RecordingSandbox(Script()), index)
    (tmp_path / "cache" / first.environment_id / lost).unlink()
    sandbox = RecordingSandbox(Script())
    assert prepare(tmp_path, sandbox, index) == first
    assert "install" in steps(sandbox)


def test_failed_installation_leaves_nothing_that_is_trusted_later(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")
    with pytest.raises(PrepareError, match="no space left"):
        prepare(tmp_path, RecordingSandbox(Script(install=failed("no space left"))), index)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
    sandbox = RecordingSandbox(Script())
    prepare(tmp_path, sandbox, index)
    assert "install" in steps(sandbox)


def test_what_a_killed_preparation_left_is_cleared(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")
    environment_id = prepare(tmp_path, RecordingSandbox(Script()), index).environment_id
    cache = tmp_path / "cache"
    (cache / environment_id / "prepared.json").unlink()
    (cache / f".{environment_id}.partial-x").mkdir()
    prepare(tmp_path, RecordingSandbox(Script()), index)
    assert sorted(path.name for path in cache.iterdir()) == [environment_id, f"{environment_id}.lock"]


def test_what_a_killed_preparation_left_of_another_environment_is_cleared_and_a_living_ones_is_not(
    tmp_path, index
):
    tree(tmp_path, requirements_txt="six\n")
    cache, mine = tmp_path / "cache", this_process()
    for owner in (mine, replace(mine, start_ticks=mine.start_ticks - 1)):
        (cache / f".other.partial-{owner}-x" / "environment").mkdir(parents=True)
    environment_id = prepare(tmp_path, RecordingSandbox(Script()), index).environment_id
    left = {path.name for path in cache.iterdir()} - {environment_id, f"{environment_id}.lock"}
    assert left == {f".other.partial-{mine}-x"}


def test_cancelled_preparation_leaves_nothing(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")

    class Hanging(RecordingSandbox):
        async def run(self, request: SandboxRequest) -> SandboxResult:
            result = await super().run(request)
            if step_of(request) == "install":
                started.set()
                await asyncio.Event().wait()
            return result

    async def cancelled() -> None:
        task = asyncio.create_task(
            PythonEnvironmentBuilder(Hanging(Script()), tmp_path / "cache", index=index).prepare(
                tmp_path / "tree"
            )
        )
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    started = asyncio.Event()
    asyncio.run(cancelled())
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_two_preparations_at_once_install_once(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")
    sandbox = RecordingSandbox(Script())

    async def both():
        builders = [PythonEnvironmentBuilder(sandbox, tmp_path / "cache", index=index) for _ in range(2)]
        return await asyncio.gather(*(builder.prepare(tmp_path / "tree") for builder in builders))

    first, second = asyncio.run(both())
    assert first == second
    assert steps(sandbox).count("install") == 1


def test_time_limit_is_a_prepare_error(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n")
    with pytest.raises(PrepareError, match=r"not ready after 0\.001 s"):
        prepare(tmp_path, RecordingSandbox(Script()), index, timeout_seconds=0.001)


def test_missing_requirement_is_named(tmp_path, index):
    tree(tmp_path, requirements_txt="no-such-package\n")
    with pytest.raises(PrepareError, match="no-such-package"):
        prepare(tmp_path, RecordingSandbox(Script()), index)


def test_source_archive_that_cannot_be_built_is_named_with_the_reason(tmp_path, index):
    index.sources.add("onlysource")
    tree(tmp_path, requirements_txt="onlysource\n")
    with pytest.raises(PrepareError, match=r"onlysource-1\.0\.tar\.gz.*\n.*gcc: not found"):
        prepare(tmp_path, RecordingSandbox(Script(build=failed("gcc: not found"))), index)


def test_link_left_by_a_build_is_not_taken_for_a_wheel(tmp_path, index):
    index.sources.add("onlysource")
    tree(tmp_path, requirements_txt="onlysource\n")
    target = make_wheel(tmp_path / "elsewhere", "onlysource")

    def build(request: SandboxRequest) -> SandboxResult:
        (mounted(request, "/built") / target.name).symlink_to(target)
        return done()

    with pytest.raises(PrepareError, match="onlysource"):
        prepare(tmp_path, RecordingSandbox(Script(build=build)), index)


def test_development_requirements_are_given_up_before_the_preparation_fails(tmp_path, index):
    pyproject = '[project]\nname="p"\ndependencies=["six"]\n[dependency-groups]\ndev=["no-such-package"]\n'
    tree(tmp_path, pyproject_toml=pyproject)
    script, lines = Script(), []
    prepare(tmp_path, RecordingSandbox(script), index, on_progress=lines.append)
    assert script.requirements == ["six", "pytest", "pytest-cov"]
    assert any("warning" in line and "no-such-package" in line for line in lines)


UV_LOCK = """
[[package]]
name = "six"
version = "{version}"
source = {{ registry = "https://example.org/simple" }}
"""


def test_versions_of_a_lock_file_are_what_is_installed(tmp_path, index):
    tree(tmp_path, requirements_txt="six\n", uv_lock=UV_LOCK.format(version="1.0"))
    script = Script()
    prepare(tmp_path, RecordingSandbox(script), index)
    assert index.constraints == [("six==1.0",)]
    assert script.constraints == ["six==1.0"]


def test_versions_of_a_lock_file_are_given_up_before_anything_else_is(tmp_path, index):
    pyproject = '[project]\nname="p"\n[dependency-groups]\ndev=["six"]\n'
    tree(tmp_path, pyproject_toml=pyproject, uv_lock=UV_LOCK.format(version="0.1"))
    index.unavailable = "six==0.1"
    script, lines = Script(), []
    prepare(tmp_path, RecordingSandbox(script), index, on_progress=lines.append)
    assert script.requirements == ["pytest", "pytest-cov", "six"]
    assert script.constraints == [""]
    (warning,) = [line for line in lines if "warning" in line]
    assert "lock file" in warning


def test_project_that_cannot_be_installed_runs_from_its_sources(tmp_path, index):
    tree(tmp_path, setup_py="setup(name='p')")
    lines = []
    environment = prepare(
        tmp_path, RecordingSandbox(Script(project=failed("needs cmake"))), index, on_progress=lines.append
    )
    assert environment.env["PYTHONPATH"] == "/workspace/src:/workspace"
    assert any("needs cmake" in line for line in lines)


def test_files_that_the_build_made_come_with_the_environment(tmp_path, index):
    tree(tmp_path, setup_py="setup(name='p')")
    generated = tar_of({"p/_version.py": b"v = 1\n"})
    environment = prepare(
        tmp_path, RecordingSandbox(Script(project=done(collected={"generated.tar": generated}))), index
    )
    assert Path(environment.generated).read_bytes() == generated
    assert "PYTHONPATH" not in environment.env


def test_tree_without_any_file_gets_pytest(tmp_path, index):
    tree(tmp_path)
    script = Script()
    prepare(tmp_path, RecordingSandbox(script), index)
    assert script.requirements == ["pytest", "pytest-cov"]


def test_extra_requirements_are_installed_and_checked(tmp_path, index):
    tree(tmp_path)
    script = Script()
    prepare(tmp_path, RecordingSandbox(script), index, extra_requirements=["six>=1"])
    assert "six>=1" in script.requirements
    for line in ("not a requirement!", "x @ https://example.org/x.whl"):
        with pytest.raises(InputError):
            PythonEnvironmentBuilder(RecordingSandbox(), tmp_path, extra_requirements=[line])


def python_by_image(request: SandboxRequest) -> SandboxResult:
    version = {"": "3.11.7", "new": "3.13.5", "old": "3.9.2"}[request.image]
    return done(json.dumps({**PROBED, "version": version}))


class Images:
    """Answers with one image, whatever is asked for, and notes what was."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def __call__(self, requires_python: str) -> str:
        self.asked.append(requires_python)
        return self.answer


def wants_python(tmp_path: Path, specifier: str) -> None:
    tree(tmp_path, pyproject_toml=f'[project]\nname="p"\nrequires-python="{specifier}"\n')


def test_project_is_prepared_and_run_in_an_image_with_a_python_that_it_supports(tmp_path, index):
    wants_python(tmp_path, ">=3.12")
    images, lines = Images("new"), []
    sandbox = RecordingSandbox(Script(probe=python_by_image))
    environment = prepare(tmp_path, sandbox, index, image_for=images, on_progress=lines.append)
    assert images.asked == [">=3.12"]
    assert environment.image == "new"
    assert [request.image for request in sandbox.requests] == ["", *["new"] * (len(sandbox.requests) - 1)]
    assert not any("warning" in line for line in lines)


def test_no_image_is_asked_for_where_the_sandbox_has_a_python_that_fits(tmp_path, index):
    wants_python(tmp_path, ">=3.9")
    images = Images("new")
    environment = prepare(tmp_path, RecordingSandbox(Script(probe=python_by_image)), index, image_for=images)
    assert (images.asked, environment.image) == ([], "")


def test_image_that_was_chosen_once_is_not_asked_for_again(tmp_path, index):
    wants_python(tmp_path, ">=3.12")
    images = Images("new")
    builder = PythonEnvironmentBuilder(
        RecordingSandbox(Script(probe=python_by_image)), tmp_path / "cache", index=index, image_for=images
    )
    first, second = (asyncio.run(builder.prepare(tmp_path / "tree")) for _ in range(2))
    assert (first, images.asked) == (second, [">=3.12"])


def test_python_that_the_project_does_not_support_is_a_warning_that_says_what_to_do(tmp_path, index):
    wants_python(tmp_path, ">=3.12")
    lines = []
    sandbox = RecordingSandbox(Script())
    prepare(tmp_path, sandbox, index, image_for=Images(""), on_progress=lines.append)
    (warning,) = [line for line in lines if "warning" in line]
    assert "Python >=3.12" in warning
    assert "3.11.7" in warning
    assert "sandbox.python" in warning


def test_python_with_an_old_pip_gets_one_that_installs_any_project(tmp_path, index):
    index.wheels.add("pip")
    wants_python(tmp_path, "<3.10")
    script = Script(probe=python_by_image)
    prepare(tmp_path, RecordingSandbox(script), index, image_for=Images("old"))
    assert "pip>=21.3" in script.requirements


@pytest.mark.parametrize(
    "answer",
    [
        failed("python3: not found"),
        done("Traceback"),
        done("{}"),
        SandboxResult(outcome=Outcome.INFRA_ERROR, error="no engine"),
    ],
)
def test_sandbox_without_a_usable_python_is_a_prepare_error(tmp_path, index, answer):
    tree(tmp_path)
    with pytest.raises(PrepareError, match="python3"):
        prepare(tmp_path, RecordingSandbox(Script(probe=answer)), index)


def test_environments_of_others_cannot_be_read_or_changed(tmp_path, index):
    tree(tmp_path)
    prepare(tmp_path, RecordingSandbox(Script()), index)
    assert os.stat(tmp_path / "cache").st_mode & 0o777 == 0o700
