"""`loopwright fix`."""


def fix() -> None:
    """Repair a repository."""
    raise NotImplementedError
