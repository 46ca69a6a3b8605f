"""Turns an answer into the new content of files, or into the reason why it never reaches a sandbox."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pipeline.core import ContextBundle, Prompt
from pipeline.draft.answer import NoDefinitionError, definition_name, find_definition
from pipeline.draft.blocks import read_blocks
from pipeline.draft.diffs import read_diff
from pipeline.draft.edited import NO_TRAITS, TestTraits
from pipeline.draft.guards import review
from pipeline.draft.imports import unbound_names, with_missing_imports
from pipeline.draft.place import MissedError, Replacement, replace_in
from pipeline.draft.prompt import DIFF_FENCE
from pipeline.draft.source import Edit, SourceFile, apply_edit, dedent, read_source, reindent
from pipeline.draft.syntax import (
    PARSE_ERRORS,
    Definition,
    changes_program,
    compile_error,
    first_definition,
    has_body,
    incompatibility,
)
from pipeline.snapshot import Snapshot
from pipeline.unwritten import has_open_signature, is_unwritten, says_unwritten


@dataclass(frozen=True, slots=True)
class Applied:
    """An answer that became an edit of one or more files."""

    files: Mapping[str, bytes]  # each changed file, whole
    code: str  # what the answer made of the place it was asked for, dedented
    risk: str = ""  # why it may satisfy the tests and repair nothing


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that did not, and why, in plain words."""

    reason: str
    is_miss: bool = False  # it quotes lines that are not there: worth telling the model


class _RefusedError(ValueError):
    pass


def apply_answer(
    tree: Snapshot,
    bundle: ContextBundle,
    prompt: Prompt,
    answer: str,
    *,
    truncated: bool = False,
    tests: TestTraits = NO_TRAITS,
    keep_docstring: bool = True,
) -> Applied | Refused:
    """Return the files that the answer changes, or why it is refused. Never raises for any answer.

    `truncated`: the answer hit max_tokens or looped; `tests`: what it must not copy from the failing tests.
    """
    try:
        files, code = _edited_files(
            tree, bundle, prompt, answer, truncated=truncated, keep_docstring=keep_docstring
        )
    except (_RefusedError, NoDefinitionError) as exc:
        return Refused(str(exc))
    except MissedError as exc:
        return Refused(str(exc), is_miss=True)
    except UnicodeEncodeError as exc:
        return Refused(f"the answer has characters that the file's encoding {exc.encoding} lacks")
    except PARSE_ERRORS as exc:
        return Refused(f"the answer cannot be read: {type(exc).__name__}")
    files = {path: content for path, content in files.items() if content != tree.read_bytes(path)}
    for path, content in files.items():
        if error := compile_error(content, path):
            return Refused(f"the file does not compile with it: {error}")
    if not changes_program(files, tree.read_bytes):
        return Refused("it changes nothing in the program")
    findings = review(files, tree.read_bytes, tests)
    if findings and findings[0].is_refusal:
        return Refused(findings[0].reason)
    return Applied(files, code, "; ".join(finding.reason for finding in findings))


def _edited_files(
    tree: Snapshot,
    bundle: ContextBundle,
    prompt: Prompt,
    answer: str,
    *,
    truncated: bool,
    keep_docstring: bool,
) -> tuple[dict[str, bytes], str]:
    """Return the files as the answer wants them, and what it made of the suspect.

    A diff is looked for where one was asked for, or where there is no definition.
    """
    if replacements := _replacements(prompt, answer, diffs=prompt.prefill.startswith(DIFF_FENCE)):
        return _replaced(tree, bundle, replacements), answer.strip()
    suspect = bundle.suspect
    if not suspect.qualname:
        raise _RefusedError("the answer holds neither a SEARCH/REPLACE block nor a diff")
    base = tree.read_bytes(suspect.path)
    try:
        edit = _definition(read_source(base), bundle, prompt, answer, truncated, keep_docstring)
    except NoDefinitionError:
        if replacements := _replacements(prompt, answer, diffs=True):
            return _replaced(tree, bundle, replacements), answer.strip()
        raise
    if unbound := unbound_names(edit.text, base, prompt.prefill + answer):
        raise _RefusedError(f"it reads {unbound[0]}, which nothing binds")
    content = with_missing_imports(apply_edit(base, edit), base, prompt.prefill + answer)
    return {suspect.path: content}, dedent(edit.text).rstrip()


def _replacements(prompt: Prompt, answer: str, *, diffs: bool) -> tuple[Replacement, ...]:
    readers = (read_diff, read_blocks) if diffs else (read_blocks,)
    return next((found for read in readers if (found := read(answer, prompt.prefill))), ())


def _replaced(tree: Snapshot, bundle: ContextBundle, replacements: Sequence[Replacement]) -> dict[str, bytes]:
    suspect = bundle.suspect
    by_path: dict[str, list[Replacement]] = {}
    for replacement in replacements:
        by_path.setdefault(_known_path(tree, replacement.path or suspect.path), []).append(replacement)
    files = {}
    for path, wanted in by_path.items():
        likely = range(suspect.start_line - 1, suspect.end_line) if path == suspect.path else range(0)
        files[path] = replace_in(read_source(tree.read_bytes(path)), wanted, likely=likely, name=path)
    return files


def _known_path(tree: Snapshot, path: str) -> str:
    """Return the file that an answer names, wholly or by its end.

    Raises:
        MissedError: there is none, or more than one.
    """
    if path in tree.paths:
        return path
    found = [known for known in tree.paths if known.endswith(f"/{path}")]
    if len(found) == 1:
        return found[0]
    near = ", ".join(found[:3] or get_close_matches(path, tree.paths, n=1, cutoff=0.0))
    raise MissedError(f"there is no file {path}; the nearest is {near}")


def _definition(
    source: SourceFile,
    bundle: ContextBundle,
    prompt: Prompt,
    answer: str,
    truncated: bool,
    keep_docstring: bool,
) -> Edit:
    suspect = bundle.suspect
    original = source.text(suspect.start_line, suspect.end_line)
    code = find_definition(
        answer, prefill=prompt.prefill, name=definition_name(suspect.qualname), truncated=truncated
    )
    code = _kept_parts(code, original, keep_docstring=keep_docstring)
    return Edit(
        path=suspect.path,
        start_line=suspect.start_line,
        end_line=suspect.end_line,
        text=reindent(code.rstrip(), original) + "\n",
    )


def _kept_parts(code: str, original: str, *, keep_docstring: bool) -> str:
    """Return the new definition with the original's decorators and docstring.

    Raises:
        _RefusedError: callers of the original cannot use it.
    """
    original = dedent(original)
    old, new = first_definition(original), first_definition(code)
    if new is None or not has_body(new):
        raise _RefusedError("the definition has no body")
    if old is None:
        return code  # the original is the syntax error that is to be repaired
    if is_unwritten(original) and is_unwritten(code):
        raise _RefusedError("the definition is still not written")
    if reason := "" if _is_free(original, old, new) else incompatibility(old, new):
        raise _RefusedError(reason)
    if keep_docstring:
        code = _with_docstring(code, new, original, old)
    if old.decorator_list and not new.decorator_list:
        code = "\n".join(original.split("\n")[: old.lineno - 1]) + "\n" + code
    return code


def _is_free(original: str, old: Definition, new: Definition) -> bool:
    """Say whether nobody can rely on the original's signature, since whoever writes it decides on it."""
    if isinstance(old, ast.ClassDef):
        return isinstance(new, ast.ClassDef) and says_unwritten(original)
    if isinstance(new, ast.ClassDef) or not has_open_signature(original):
        return False
    first, wanted = ([a.arg for a in (*d.args.posonlyargs, *d.args.args)][:1] for d in (new, old))
    return not wanted or first == wanted  # self stays self


def _with_docstring(code: str, new: Definition, original: str, old: Definition) -> str:
    """Put the original docstring into the new definition: a reworded one is noise in the patch."""
    old_doc, new_doc = _docstring_span(old), _docstring_span(new)
    if old_doc is None or old.body[0].col_offset != new.body[0].col_offset:
        return code
    lines = code.split("\n")
    if new_doc is None:
        first = new.body[0]
        if first.lineno == new.lineno:
            return code  # a body on the header's line leaves no place for it
        start = min([first.lineno, *(d.lineno for d in getattr(first, "decorator_list", []))]) - 1
        new_doc = (start, start)
    lines[slice(*new_doc)] = original.split("\n")[slice(*old_doc)]
    return "\n".join(lines)


def _docstring_span(node: Definition) -> tuple[int, int] | None:
    """Return the first (from 0) and one past the last line of a docstring that has its lines to itself."""
    first = node.body[0]
    if not (isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)):
        return None
    shares_header = first.lineno == node.lineno
    shares_next = len(node.body) > 1 and node.body[1].lineno == first.end_lineno
    if not isinstance(first.value.value, str) or shares_header or shares_next:
        return None
    return first.lineno - 1, first.end_lineno or first.lineno
