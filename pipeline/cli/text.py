"""Text from models and repositories, made safe to print on a terminal."""

from __future__ import annotations

import re

# CSI and OSC sequences whole, then any other control character except tab and newline.
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable_block(text: str) -> str:
    """Return the text without escape sequences, control characters and direction overrides."""
    return _CONTROLS.sub("�", _ESCAPE_SEQUENCES.sub("", text))


def printable(text: str, max_chars: int = 1000) -> str:
    """Return the text as one printable line of at most `max_chars` characters."""
    line = " ".join(printable_block(text[: 4 * max_chars]).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"


def duration(seconds: float) -> str:
    """Return a length of time as people say it: "8.2 s", "3 min 20 s", "1 h 5 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
