"""The command line: the composition root, where stages, workers and model meet."""


def main() -> None:
    """Run the `loopwright` command."""
