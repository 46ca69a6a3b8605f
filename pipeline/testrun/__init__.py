"""Test runs, seen from outside the tested process.

`command` reads the user's command, `request` asks a sandbox to run it, `report` reads what came back,
`coverage` which tests ran which lines, `spectrum` how suspicious that makes a line, and `startup` says why a
suite could not even start.
"""

from pipeline.testrun.command import TestCommand, parse_test_command
from pipeline.testrun.coverage import (
    COVERAGE_OPTIONS,
    WITHOUT_ADDOPTS,
    CoverageMap,
    read_map,
    under_coverage,
)
from pipeline.testrun.report import COMMAND_ID, read_report
from pipeline.testrun.request import (
    build_request,
    hang_options,
    is_trusted,
    trusted_layer,
)
from pipeline.testrun.spectrum import ochiai
from pipeline.testrun.startup import explain_no_start, hung_test, missing_module

__all__ = [
    "COMMAND_ID",
    "COVERAGE_OPTIONS",
    "WITHOUT_ADDOPTS",
    "CoverageMap",
    "TestCommand",
    "build_request",
    "explain_no_start",
    "hang_options",
    "hung_test",
    "is_trusted",
    "missing_module",
    "ochiai",
    "parse_test_command",
    "read_map",
    "read_report",
    "trusted_layer",
    "under_coverage",
]
