"""Test runs, seen from outside the tested process.

`command` reads the user's command, `request` asks a sandbox to run it, `report` reads what came back,
`startup` says why a suite could not even start.
"""

from pipeline.testrun.command import TestCommand, parse_test_command
from pipeline.testrun.report import COMMAND_ID, read_coverage, read_report
from pipeline.testrun.request import (
    build_request,
    coverage_options,
    hang_options,
    is_trusted,
    trusted_layer,
)
from pipeline.testrun.startup import explain_no_start, hung_test, missing_module

__all__ = [
    "COMMAND_ID",
    "TestCommand",
    "build_request",
    "coverage_options",
    "explain_no_start",
    "hang_options",
    "hung_test",
    "is_trusted",
    "missing_module",
    "parse_test_command",
    "read_coverage",
    "read_report",
    "trusted_layer",
]
