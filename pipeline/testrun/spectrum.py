"""How suspicious a line is, by which tests run it: those that fail, and those that pass."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable

from pipeline.testrun.coverage import CoverageMap

_NUM_DIGITS = 4  # kept of a value: it lies in every checkpoint


def ochiai(
    coverage: CoverageMap, failing: Iterable[str], passing: Iterable[str] = ()
) -> dict[str, dict[int, float]]:
    """Return path -> line -> suspicion, above 0 and at most 1, of the lines that failing tests run.

    Abreu, Zoeteweij, van Gemund 2007: of F failing tests ef run the line and ep of the passing ones,
    ef / sqrt(F * (ef + ep)). A test that is named in both fails.
    """
    is_failing = _bits(coverage, failing)
    is_passing = _bits(coverage, passing) & ~is_failing
    num_failing = is_failing.bit_count()
    found: dict[str, dict[int, float]] = {}
    for path, bits_by_line in coverage.bits.items():
        for line, bits in sorted(bits_by_line.items()):
            ef, ep = (bits & is_failing).bit_count(), (bits & is_passing).bit_count()
            if ef:
                value = ef / math.sqrt(num_failing * (ef + ep))
                found.setdefault(path, {})[line] = round(value, _NUM_DIGITS)
    return found


def _bits(coverage: CoverageMap, test_ids: Iterable[str]) -> int:
    """Return the tests as bits; an id that the map has not, as of odd parameters, counts for its function."""
    by_id = {test: 1 << i for i, test in enumerate(coverage.tests)}
    by_function: dict[str, int] = defaultdict(int)
    for test, bit in by_id.items():
        by_function[test.partition("[")[0]] |= bit
    bits = 0
    for test_id in test_ids:
        bits |= by_id.get(test_id) or by_function.get(test_id.partition("[")[0], 0)
    return bits
