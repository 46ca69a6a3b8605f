"""Text from models and repositories made safe to show, and numbers as people say them."""

from __future__ import annotations

import re

# CSI and OSC sequences whole, then any other escape.
_ESCAPE_SEQUENCES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|[ -/]*[0-~])?"
)
# Control characters but tab and newline, direction overrides, lone surrogates and non-characters.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
REPLACEMENT = "\ufffd"


def printable_block(text: str) -> str:
    """Return the text without escape sequences; control characters and direction overrides become U+FFFD."""
    return _CONTROLS.sub(REPLACEMENT, _ESCAPE_SEQUENCES.sub("", text.replace("\r\n", "\n")))


def printable(text: str, max_chars: int = 1000) -> str:
    """Return the text as one printable line of at most `max_chars` characters."""
    line = " ".join(printable_block(text[: 4 * max_chars]).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def clip(text: str, max_chars: int, max_line_chars: int = 2000) -> str:
    """Return the text with over-long lines and an over-long middle left out, each gap saying its size."""
    head, tail = text[: max_chars * 3 // 4], text[-(max_chars // 4) :]
    if len(text) > max_chars:
        text = f"{head}\n[… {len(text) - len(head) - len(tail)} characters left out …]\n{tail}"
    return "\n".join(_clip_line(line, max_line_chars) for line in text.split("\n"))


def _clip_line(line: str, max_chars: int) -> str:
    return line if len(line) <= max_chars else f"{line[:max_chars]} [… {len(line) - max_chars} more …]"


def duration(seconds: float) -> str:
    """Return a length of time as people say it: "8.2 s", "3 min 20 s", "1 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(num_bytes: float) -> str:
    """Return a number of bytes in decimal units: "512 B", "1.2 MB", "3.4 GB"."""
    for unit in ("B", "kB", "MB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} GB"


def count(number: int, noun: str, plural: str = "") -> str:
    """Return the number with its noun: "1 round", "2 rounds", "12,000 tokens"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
