"""The error tree of the model package; callers translate it into their own at the border.

ModelError
├── LoopConfigError       loop settings that do not describe a loop, or not one of this checkpoint
├── CheckpointError       a checkpoint whose config or tensors are not what its family's are
├── DepthError            a request asks for a recurrence depth that cannot be served
└── EngineSetupError      the engine was started in a way that a looped model cannot run in
"""


class ModelError(Exception):
    """Base of every error that a user is meant to read. `hint` says what to do about it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class LoopConfigError(ModelError, ValueError):
    """The loop settings contradict themselves or the checkpoint."""


class CheckpointError(ModelError, ValueError):
    """A checkpoint's config or tensors are not what its architecture says, or set what is not implemented."""


class DepthError(ModelError, ValueError):
    """A request's recurrence depth is not a whole number within the engine's range."""


class EngineSetupError(ModelError):
    """The engine's settings would run the loop wrongly or not at all."""
