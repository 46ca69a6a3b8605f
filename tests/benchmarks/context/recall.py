"""Where each way to localise ranks what a query is about: `python -m tests.benchmarks.context.recall`.

Without `--model` only the ways that ask no model. Prints a table for each kind of query, and writes a row for
each case and way. A case counts as found within k where all its functions are.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.bench.sdist import Index
from pipeline.bench.sources import Library
from pipeline.context.lexical import BM25, LexicalIndex
from pipeline.context.symbols import words
from pipeline.context.tree.cache import PartCache
from pipeline.context.tree.index import index
from pipeline.context.tree.repo_tree import RepoTree
from pipeline.context.units import Unit, units
from pipeline.snapshot import Snapshot
from pipeline.stats import Estimate, mean
from tests.benchmarks.context.cases import CASES, Case, load_cases
from tests.benchmarks.context.trees import tree_of

FUNCTIONS_AT, FILES_AT = (1, 5, 10), (1, 3, 5)
_WINDOW_LINES = 60


@dataclass(frozen=True, slots=True)
class Row:
    """Where one way put what a case is about; None: nowhere."""

    case_id: str
    kind: str
    way: str
    num_lines: int  # of the tree's code, tests left out
    function_rank: int | None  # of the last of its functions, among functions
    file_rank: int | None  # of the last of its files
    seconds: float
    num_calls: int = 0
    num_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Bed:
    """A case's tree, read once for all ways."""

    case: Case
    snapshot: Snapshot
    tree: RepoTree
    units: Sequence[Unit]
    words: LexicalIndex

    @property
    def num_lines(self) -> int:
        """How many lines are searched."""
        return sum(unit.text.count("\n") for unit in self.units)

    @property
    def paths(self) -> list[str]:
        """The files that are searched."""
        return list(dict.fromkeys(unit.node.path for unit in self.units))


Way = Callable[[Bed], list[str]]  # units' places, best first


def bed_of(case: Case, library: Library, cache: PartCache) -> Bed:
    """Return a case's tree, with its units."""
    snapshot = tree_of(case, library)
    tree = index(snapshot, cache=cache)
    found = tuple(units(tree, snapshot, with_tests=False))
    return Bed(case, snapshot, tree, found, LexicalIndex(found))


def by_path(bed: Bed) -> list[str]:
    """Rank by the words that path and name share with the query, and nothing of the text."""
    wanted = set(words(bed.case.query))
    scored = [(len(wanted & set(words(unit.place))), unit.place) for unit in bed.units]
    return [place for score, place in sorted(scored, key=lambda one: -one[0]) if score]


def by_bm25(bed: Bed) -> list[str]:
    """BM25 over functions."""
    return [one.unit.place for one in bed.words.ranked(bed.case.query, with_pointers=False)]


def by_words(bed: Bed) -> list[str]:
    """BM25, and what the query points at: frames, names, messages."""
    return [one.unit.place for one in bed.words.ranked(bed.case.query)]


def by_windows(bed: Bed) -> list[str]:
    """BM25 over windows of fixed size; a function is worth what the best window is that it begins in."""
    cut = [(path, start, lines) for path in bed.paths for start, lines in _windows(bed.snapshot, path)]
    scores = BM25([words(text) or ["_"] for _, _, text in cut]).get_scores(sorted(set(words(bed.case.query))))
    best = {(path, start): float(score) for (path, start, _), score in zip(cut, scores, strict=True)}

    def worth(unit: Unit) -> float:
        line = unit.node.start_line - 1
        return best[unit.node.path, line - line % _WINDOW_LINES]

    return [unit.place for unit in sorted(bed.units, key=worth, reverse=True) if worth(unit) > 0]


def _windows(snapshot: Snapshot, path: str) -> Iterator[tuple[int, str]]:
    lines = snapshot.read_bytes(path).decode("utf-8", "replace").split("\n")
    for start in range(0, len(lines), _WINDOW_LINES):
        yield start, "\n".join(lines[start : start + _WINDOW_LINES])


WAYS: Mapping[str, Way] = {
    "path only": by_path,
    "fixed windows": by_windows,
    "BM25": by_bm25,
    "BM25 + pointers": by_words,
}


def row_of(bed: Bed, way: str, places: Sequence[str], seconds: float) -> Row:
    """Return where a ranking has a case's functions and files."""
    functions = [place for place in places if "::" in place]
    files = list(dict.fromkeys(_path(place) for place in places))
    gold_files = {_path(place) for place in bed.case.gold}
    return Row(
        case_id=bed.case.case_id,
        kind=bed.case.kind,
        way=way,
        num_lines=bed.num_lines,
        function_rank=_last_rank(functions, bed.case.gold),
        file_rank=_last_rank(files, gold_files),
        seconds=seconds,
    )


def _path(place: str) -> str:
    return place.partition("::")[0] if "::" in place else place.rpartition(":")[0]


def _last_rank(ranking: Sequence[str], wanted: Sequence[str] | set[str]) -> int | None:
    known = {place: rank for rank, place in enumerate(ranking, 1)}
    ranks = [known.get(one) for one in wanted]
    return None if None in ranks else max(rank for rank in ranks if rank)


def rows(cases: Sequence[Case], library: Library, cache: PartCache) -> Iterator[Row]:
    """Yield the rows of the ways that ask no model."""
    for case in cases:
        bed = bed_of(case, library, cache)
        for way, rank in WAYS.items():
            begun_at = time.monotonic()
            places = rank(bed)
            yield row_of(bed, way, places, time.monotonic() - begun_at)


def table(found: Sequence[Row]) -> str:
    """Return recall@k with 95 % intervals, a line for each kind and way."""
    head = ["query", "way", "cases", *(f"function @{k}" for k in FUNCTIONS_AT), "100 MRR"]
    head += [f"file @{k}" for k in FILES_AT]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in found:
        groups[row.kind, row.way].append(row)
        groups["all", row.way].append(row)
    for (kind, way), those in sorted(groups.items(), key=lambda one: (one[0][0] == "all", one[0][0])):
        cells = [kind, way, str(len(those))]
        cells += [_share([row.function_rank for row in those], k).shown(100) for k in FUNCTIONS_AT]
        cells.append(mean([1 / row.function_rank if row.function_rank else 0.0 for row in those]).shown(100))
        cells += [_share([row.file_rank for row in those], k).shown(100) for k in FILES_AT]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _share(ranks: Sequence[int | None], k: int) -> Estimate:
    return mean([float(rank is not None and rank <= k) for rank in ranks])


def main(argv: Sequence[str] | None = None) -> int:
    """Rank all cases in all ways, print the table, and write the rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cases", type=Path, default=CASES)
    parser.add_argument("--split", choices=["dev", "held_out"], default="dev")
    parser.add_argument("--work", type=Path, required=True, help="source archives and trees")
    parser.add_argument("--out", type=Path, required=True, help="the rows, as JSON lines")
    options = parser.parse_args(argv)
    work = options.work
    library = Library(folder=work, sdists=work / "sdists", clone_cache=work / "clones", index=Index())
    cases = [case for case in load_cases(options.cases) if case.split == options.split]
    found = []
    for row in rows(cases, library, PartCache(work / "parts.sqlite")):
        found.append(row)
        print(f"{row.case_id} {row.way}: {row.function_rank}", file=sys.stderr, flush=True)
    options.out.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in found), "utf-8")
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
