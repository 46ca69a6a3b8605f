"""Reads what the root decided from its message: code to run, or an answer. Only that message is read."""

from __future__ import annotations

import re
from dataclasses import dataclass

_THOUGHT = re.compile(r"\A.*?</think>|<think>.*\Z", re.DOTALL)
_FENCE = re.compile(r"^ {0,3}(`{3,})[ \t]*([\w+-]*)[^\n`]*$", re.MULTILINE)
_LANGUAGES = ("python", "py", "repl")
_FINAL_VAR = re.compile(r"^FINAL_VAR\([ \t]*[\"']?([A-Za-z_]\w*)[\"']?[ \t]*\)[ \t]*$", re.MULTILINE)
_FINAL = re.compile(r"^FINAL\((.*)\)[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One of code, final and final_var, or none of them."""

    code: str | None = None
    final: str | None = None
    final_var: str | None = None
    num_ignored: int = 0  # further blocks of code
    is_cut: bool = False  # the block has no end


def read_move(message: str) -> Move:
    """Return the first block of code; only without any, an answer that stands at the start of a line."""
    text = _THOUGHT.sub("", message.replace("\r\n", "\n"), count=1)
    blocks, prose, is_cut = _split(text)
    if blocks:
        return Move(code=blocks[0], num_ignored=len(blocks) - 1, is_cut=is_cut and len(blocks) == 1)
    if found := _FINAL_VAR.search(prose):
        return Move(final_var=found[1])
    if found := _FINAL.search(prose):
        return Move(final=found[1].strip())
    return Move(is_cut=is_cut)


def _split(text: str) -> tuple[list[str], str, bool]:
    """Return the blocks of code, the text outside of any block, and whether the last block has no end."""
    blocks, prose, position = [], "", 0
    while opening := _FENCE.search(text, position):
        prose += text[position : opening.start()]
        closing = re.compile(rf"^ {{0,3}}`{{{len(opening[1])},}}[ \t]*$", re.MULTILINE).search(
            text, opening.end()
        )
        end = closing.start() if closing else len(text)
        if opening[2].lower() in _LANGUAGES:
            blocks.append(text[opening.end() + 1 : end])
        if closing is None:
            return blocks, prose, True
        position = closing.end()
    return blocks, prose + text[position:], False
