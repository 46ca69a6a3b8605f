"""The error tree. The command line turns each branch into its own exit code.

LoopwrightError
├── InputError            what the user gave cannot be used: exit 2
│   ├── NothingToRepairError  the tests already pass on the base: exit 5
│   └── RunBusyError          another process works on the run
├── EnvironmentBrokenError    this machine lacks something, or it broke: exit 4
│   ├── ModelUnavailableError     no verified model, or it cannot be loaded
│   ├── GeneratorError            an engine died or refused, after the one retry
│   │   ├── EngineDeadError
│   │   └── EngineLostError           several requests in a row failed: the batch stops
│   ├── PlannerDiedError          a planner's process is gone; what it did is in its runs' folders
│   ├── RepositoryUnreachableError  a git server does not answer, after its retries
│   ├── DiskFullError             nothing more can be written: the batch stops
│   ├── SandboxError              the sandbox itself failed, after its retries
│   │   └── SandboxLostError          it did not work again in the time it was given: the batch stops
│   └── PrepareError              the target's dependencies cannot be installed, or its tests cannot start
└── LimitReachedError     a limit of the run was hit where no verdict can record it: exit 3
"""


class LoopwrightError(Exception):
    """Base of every error that a user is meant to read. `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class InputError(LoopwrightError, ValueError):
    """What the user gave cannot be used."""


class NothingToRepairError(InputError):
    """The target tests pass on the base commit, so there is nothing to repair."""


class RunBusyError(InputError):
    """Another process is working on the run."""


class EnvironmentBrokenError(LoopwrightError):
    """This machine lacks something that the run needs."""


class ModelUnavailableError(EnvironmentBrokenError):
    """No verified model is present, or the one that is cannot be loaded."""


class GeneratorError(EnvironmentBrokenError):
    """The engine could not serve a request, after its one retry."""


class EngineDeadError(GeneratorError):
    """The engine process died while requests were in flight."""


class EngineLostError(GeneratorError):
    """Several requests in a row failed, so nothing more can be drafted for anybody."""


class PlannerDiedError(EnvironmentBrokenError):
    """The process of a planner is gone; what it did is in the folders of its runs."""


class RepositoryUnreachableError(EnvironmentBrokenError):
    """A git server cannot be reached, after the retries; it says nothing about the repository."""


class SandboxError(EnvironmentBrokenError):
    """The sandbox engine itself failed; it says nothing about the code that was to run."""


class SandboxLostError(SandboxError):
    """The sandbox works for nobody and did not come back, so nothing more can be tested."""


class DiskFullError(EnvironmentBrokenError):
    """No room is left where runs are kept, so nothing more can be done."""


class PrepareError(EnvironmentBrokenError):
    """The target's environment could not be made, or its tests cannot start in it."""


class LimitReachedError(LoopwrightError):
    """A limit of the run was hit."""
