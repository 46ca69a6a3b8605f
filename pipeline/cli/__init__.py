"""The command line: the composition root, where stages, workers and model meet."""


def main() -> None:
    """Run the `loopwright` command."""
    from pipeline.cli.app import app

    app(prog_name="loopwright")
