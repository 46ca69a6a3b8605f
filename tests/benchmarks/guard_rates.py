"""How often the over-fit guards speak against honest code: real fixes, and functions between two releases.

    python -m tests.benchmarks.real_cases.build --out CASES
    python -m tests.benchmarks.guard_rates --cases CASES [--pair OLD_TREE NEW_TREE TREE_WITH_TESTS]...

Every changed function of a release is laid alone into the release before, as a candidate would be. What the
guards may compare with are the failing tests for a case's own fix, and every test that names the function
otherwise. Nothing of the trees is run.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.context.failures import definition_of_test, is_test_path
from pipeline.context.symbols import Definition, definitions
from pipeline.draft.edited import TestTraits, traits_of
from pipeline.draft.guards import review
from pipeline.draft.source import split_lines
from pipeline.draft.syntax import changes_program
from pipeline.snapshot import Snapshot
from tests.benchmarks.real_cases.case import load_cases, source_of


@dataclass(frozen=True)
class Change:
    """One function of the newer tree in the place of the older one's."""

    name: str  # path::qualname
    files: dict[str, bytes]
    old: Snapshot


def main() -> None:
    """Print what the guards say of every fix, and their rates over the releases."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=Path, required=True, help="where the real cases were built")
    parser.add_argument("--pair", type=Path, nargs=3, action="append", default=[], help="two releases, tests")
    args = parser.parse_args()
    tasks = load_cases(args.cases / "tasks.jsonl")
    refused = 0
    for task in tasks:
        old, new = Snapshot(Path(task.repo), ""), Snapshot(Path(task.repo).with_name("next"), "")
        wanted = set(source_of(task).fixed_functions)
        files = {p: d for c in changes(old, new) if c.name in wanted for p, d in c.files.items()}
        tests = [definition_of_test(test_id, old) for test_id in task.fail_to_pass]
        sources = [source_text(old, test) for test in tests if test]
        modules = [Path(test_id.partition("::")[0]).stem for test_id in task.fail_to_pass]
        found = review(files, old.read_bytes, traits_of(sources, modules))
        refused += any(finding.is_refusal for finding in found)
        print(f"{task.task_id}: {'; '.join(map(str, found)) or 'nothing'}")
    print(f"gold fixes refused: {refused} of {len(tasks)}\n")
    trees = {source_of(task).project: Path(task.repo) for task in tasks}
    releases = [(tree, tree.with_name("next"), tree.with_name("next")) for tree in trees.values()]
    rates([*releases, *map(tuple, args.pair)])


def rates(releases: list[tuple[Path, ...]]) -> None:
    """Print how many changed functions each guard speaks against."""
    num_changes, guards, refused, risky = 0, Counter[str](), 0, 0
    for before, after, with_tests in releases:
        old, new, tests = (Snapshot(tree, "") for tree in (before, after, with_tests))
        for change in changes(old, new):
            num_changes += 1
            found = review(change.files, old.read_bytes, _tests_naming(change.name, tests))
            guards.update({finding.guard for finding in found})
            refused += any(finding.is_refusal for finding in found)
            risky += bool(found) and not any(finding.is_refusal for finding in found)
            for finding in found:
                print(f"{before} {change.name}: {finding.guard}: {finding.reason}")
    print(f"changed functions: {num_changes}; refused: {refused}; called a risk: {risky}; {dict(guards)}")


def changes(old: Snapshot, new: Snapshot) -> Iterator[Change]:
    """Yield every function that the newer tree has otherwise, each by itself in the older tree."""
    for path in sorted(set(old.python_paths) & set(new.python_paths)):
        if is_test_path(path):
            continue
        before = {d.qualname: d for d in definitions(path, old.read_bytes(path)) if d.kind == "function"}
        after = {d.qualname: d for d in definitions(path, new.read_bytes(path)) if d.kind == "function"}
        for name in sorted(set(before) & set(after)):
            text, ours = source_text(new, after[name]), source_text(old, before[name])
            if text != ours:
                content = old.read_bytes(path).decode().replace(ours, text, 1).encode()
                if changes_program({path: content}, old.read_bytes):
                    yield Change(f"{path}::{name}", {path: content}, old)


def source_text(tree: Snapshot, definition: Definition) -> str:
    """Return a definition as it stands in the tree."""
    lines = split_lines(tree.read_bytes(definition.path).decode())
    return "".join(lines[definition.start_line - 1 : definition.end_line])


def _tests_naming(function: str, tree: Snapshot) -> TestTraits:
    name = re.compile(rf"\b{re.escape(function.rpartition('::')[2].rpartition('.')[2])}\b")
    sources = []
    for path in (path for path in tree.python_paths if is_test_path(path)):
        tests = [d for d in definitions(path, tree.read_bytes(path)) if d.kind == "function"]
        sources += [text for test in tests if name.search(text := source_text(tree, test))]
    return traits_of(map(_dedented, sources), ())


def _dedented(text: str) -> str:
    return "\n".join(line.removeprefix(text[: len(text) - len(text.lstrip())]) for line in text.split("\n"))


if __name__ == "__main__":
    main()
