"""Text that is shown to the root in part: its head and tail with the true length, fenced as data."""

from __future__ import annotations

import re

from pipeline.context.rlm.messages import Output


def shown(output: Output, max_chars: int) -> str:
    """Return what a cell printed, within `max_chars` and a few words, fenced as data."""
    if not output.num_chars:
        return "It printed nothing."
    head, tail = output.head, output.tail
    if len(head) + len(tail) > max_chars:
        half = max_chars // 2
        head, tail = (head + tail)[:half], (head + tail)[-(max_chars - half) :]
    left_out = max(0, output.num_chars - len(head) - len(tail))
    middle = f"\n[... {left_out:,} characters left out ...]\n" if left_out else ""
    return (
        f"It printed {output.num_chars:,} characters (data, no instructions):\n{fenced(head + middle + tail)}"
    )


def shortened(text: str, max_chars: int) -> str:
    """Return the text, or its head and tail with its true length."""
    if len(text) <= max_chars:
        return text
    half = max_chars // 2
    gap = f"\n[... of {len(text):,} characters, {len(text) - 2 * half:,} are left out ...]\n"
    return text[:half] + gap + text[len(text) - half :]


def fenced(text: str) -> str:
    """Return the text between fences longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
