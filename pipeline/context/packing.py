"""Choose what a prompt may say about one suspect, within a token budget.

What the model must rewrite always goes in whole; the rest is added in the order of its use until the budget
is spent, and a part that is cut says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipeline.context.failures import Evidence, definition_of_test, excerpt, is_test_path
from pipeline.context.symbols import (
    Definition,
    called_names,
    definitions,
    identifiers,
    module_statements,
    source_lines,
)
from pipeline.context.symptom import symptom
from pipeline.core import ContextBundle, Suspect, TestCase
from pipeline.exceptions import LimitReachedError
from pipeline.snapshot import Snapshot
from pipeline.unwritten import has_open_signature, is_unwritten

CountTexts = Callable[[Sequence[str]], Awaitable[list[int]]]

_MAX_TESTS = 2  # a second failing test often shows the pattern; a third rarely adds to it
_MAX_RELATED = 6
_MAX_EXAMPLES, _MAX_EXAMPLE_LINES = 2, 30
_MIN_PART_TOKENS = 24  # less than this of a part is noise


async def pack(
    snapshot: Snapshot,
    suspect: Suspect,
    evidence: Evidence,
    *,
    width: Literal["narrow", "wide"],
    max_tokens: int,
    count_tokens: CountTexts,
) -> ContextBundle:
    """Return the context of a suspect in at most `max_tokens` tokens; `wide` adds callees and neighbours.

    Raises:
        LimitReachedError: the definition alone does not fit.
    """
    source = _Source.read(snapshot, suspect.path)
    definition = source.text(suspect.start_line, suspect.end_line)
    related = _related(snapshot, source, suspect, definition) if width == "wide" else []
    failures = _telling_failures(suspect, evidence)
    # In the order of their use: what is cut first stands last.
    parts = [
        _statements_at_hand(source) if suspect.is_unwritten else _used_statements(source, definition),
        "\n\n".join(dict.fromkeys(excerpt(case) for case in failures)),
        *_failing_tests(snapshot, evidence, suspect),
        _enclosing(source, suspect),
        *related,
    ]
    num_definition, *num_parts = await count_tokens([definition, *parts])
    if num_definition > max_tokens:
        raise LimitReachedError(
            f"{suspect.path}:{suspect.qualname} has {num_definition} tokens; a prompt may have {max_tokens}",
            hint="raise planner.max_prompt_tokens, or use a model with a larger window",
        )
    fitted, num_tokens = _fit(parts, num_parts, max_tokens - num_definition)
    num_tests = len(parts) - 3 - len(related)
    return ContextBundle(
        suspect=suspect,
        definition=definition,
        header=_header(source, suspect),
        imports=fitted[0],
        failure=fitted[1],
        symptom=symptom(failures[0]) if failures else "",
        failing_tests=tuple(text for text in fitted[2 : 2 + num_tests] if text),
        enclosing=fitted[2 + num_tests],
        related=tuple(text for text in fitted[3 + num_tests :] if text),
        num_tokens=num_definition + num_tokens,
    )


@dataclass(frozen=True)
class _Source:
    """One file, by lines and definitions."""

    path: str
    data: bytes
    lines: tuple[str, ...]
    definitions: tuple[Definition, ...]

    @classmethod
    def read(cls, snapshot: Snapshot, path: str) -> _Source:
        data = snapshot.read_bytes(path)
        return cls(path, data, tuple(source_lines(data)), definitions(path, data))

    def text(self, start_line: int, end_line: int) -> str:
        return "\n".join(self.lines[start_line - 1 : end_line])

    def of(self, definition: Definition) -> str:
        return self.text(definition.start_line, definition.end_line)

    def named(self, qualname: str) -> Definition | None:
        return next((d for d in self.definitions if d.qualname == qualname), None)

    def at(self, suspect: Suspect) -> Definition | None:
        return next((d for d in self.definitions if d.start_line == suspect.start_line), None)


def _header(source: _Source, suspect: Suspect) -> str:
    definition = source.at(suspect)
    if definition is None:
        return ""
    if suspect.is_unwritten and has_open_signature(source.of(definition)):
        return source.text(definition.start_line, definition.def_line).partition("*")[0].rstrip()
    if suspect.is_unwritten and definition.doc_end_line:
        return source.text(definition.start_line, definition.doc_end_line)
    if definition.body_line == definition.def_line:  # def f(): return 1
        return source.text(definition.start_line, definition.def_line).partition(":")[0] + ":"
    last = definition.body_line - 1
    while last > definition.def_line and not _code(source.lines[last - 1]).endswith(":"):
        last -= 1  # comments and blank lines between the colon and the body
    return source.text(definition.start_line, last)


def _code(line: str) -> str:
    return line.partition("#")[0].rstrip()


def _used_statements(source: _Source, definition: str) -> str:
    """Return the module's imports and constants that the definition uses, constants of constants included."""
    statements = module_statements(source.data)
    used = identifiers(definition)
    for statement in reversed(statements):
        if statement.kind == "assignment" and statement.names & used:
            used |= identifiers(source.text(statement.start_line, statement.end_line))
    return "\n".join(source.text(s.start_line, s.end_line) for s in statements if s.names & used)


def _statements_at_hand(source: _Source) -> str:
    """Return the module's imports and short constants: what a definition that is yet to come may use."""
    found = [s for s in module_statements(source.data) if s.kind == "import" or s.start_line == s.end_line]
    return "\n".join(source.text(s.start_line, s.end_line) for s in found)


def _telling_failures(suspect: Suspect, evidence: Evidence) -> Sequence[TestCase]:
    """Return the failures that say more than that something is not written."""
    cases = evidence.failures
    if suspect.is_unwritten:
        cases = tuple(case for case in cases if not case.message.startswith("NotImplementedError"))
    return cases[:_MAX_TESTS]


def _failing_tests(snapshot: Snapshot, evidence: Evidence, suspect: Suspect) -> list[str]:
    found = (definition_of_test(case.test_id, snapshot) for case in evidence.failures)
    tests = [definition for definition in dict.fromkeys(found) if definition is not None]
    if suspect.is_unwritten:
        # What is not written yet is told by its own tests alone, and by all that they are given.
        texts = [_Source.read(snapshot, test.path).of(test) for test in tests]
        name = suspect.qualname.rpartition(".")[2]
        return sorted(texts, key=lambda text: name not in identifiers(text))[:_MAX_TESTS]
    tests = tests[:_MAX_TESTS]
    # No decorators: a table of parameters would crowd out the test; the failure names the one that failed.
    return [_Source.read(snapshot, test.path).text(test.def_line, test.end_line) for test in tests]


def _enclosing(source: _Source, suspect: Suspect) -> str:
    """Return the enclosing class up to its first method, without its docstring, and its __init__."""
    parent = source.named(suspect.qualname.rpartition(".")[0])
    if parent is None:
        return ""
    methods = [d for d in source.definitions if d.parent == parent.qualname]
    first = min((d.start_line for d in methods), default=parent.end_line + 1)
    opening = source.text(parent.start_line, parent.body_line - 1)
    attributes = source.text(max(parent.body_line, parent.doc_end_line + 1), first - 1)
    head = f"{opening}\n{attributes}".rstrip()
    constructor = source.named(f"{parent.qualname}.__init__")
    if constructor is None or constructor.start_line == suspect.start_line:
        return head
    return f"{head}\n\n{source.of(constructor)}"


def _related(snapshot: Snapshot, source: _Source, suspect: Suspect, definition: str) -> list[str]:
    """Return callees of the suspect, those of its own file first, then its neighbours in the file."""
    called = called_names(definition.encode())
    callees = [d for d in source.definitions if d.name in called and d.start_line != suspect.start_line]
    found = [source.of(d) for d in callees if d.kind == "function"]
    found += _callees_elsewhere(snapshot, suspect.path, called - {d.name for d in callees})
    neighbours = [d for d in source.definitions if d.kind == "function" and d not in callees]
    neighbours.sort(key=lambda d: abs(d.start_line - suspect.start_line))
    if suspect.is_unwritten:
        return _examples(source, neighbours, suspect)
    found += [source.of(d) for d in neighbours if d.start_line != suspect.start_line]
    return list(dict.fromkeys(found))[:_MAX_RELATED]


def _examples(source: _Source, neighbours: Iterable[Definition], suspect: Suspect) -> list[str]:
    """Return the nearest short definitions of the same scope: the style of what is yet to be written."""
    parent = suspect.qualname.rpartition(".")[0]
    texts = [source.of(d) for d in neighbours if d.parent == parent and d.start_line != suspect.start_line]
    written = [text for text in texts if not is_unwritten(text)]
    return [text for text in written if text.count("\n") < _MAX_EXAMPLE_LINES][:_MAX_EXAMPLES]


def _callees_elsewhere(snapshot: Snapshot, path: str, called: Iterable[str]) -> list[str]:
    wanted = frozenset(called)
    found = []
    for other in snapshot.python_paths:
        if other == path or is_test_path(other) or not wanted:
            continue
        source = _Source.read(snapshot, other)
        here = [d for d in source.definitions if d.kind == "function" and d.name in wanted]
        found += [f"# {other}\n{source.of(d)}" for d in here]
    return found[:_MAX_RELATED]


def _fit(parts: Sequence[str], num_tokens: Sequence[int], budget: int) -> tuple[list[str], int]:
    """Keep each part whole while it fits; cut the first that does not, drop what then has no room."""
    fitted, left = [], budget
    for part, size in zip(parts, num_tokens, strict=True):
        if not part or size <= left:
            fitted.append(part)
            left -= size if part else 0
        elif left >= _MIN_PART_TOKENS:
            fitted.append(_cut(part, left / size))
            left = 0
        else:
            fitted.append("")
    return fitted, budget - left


def _cut(part: str, share: float) -> str:
    """Keep the first lines that make up a share of a part's characters, less the note that says so."""
    room = int(len(part) * share) - 16
    kept: list[str] = []
    for line in part.splitlines():
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    return "\n".join([*kept, "# ... cut"])
