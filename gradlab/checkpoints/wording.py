"""Sentences about files that stay short: paths, names and other libraries' reasons, cut where they are long."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_PATH = 110
_REASON = 160
_SENTENCE = 500


def shown(path: str | Path) -> str:
    """A path as an error names it: its end where it is long."""
    text = str(path)
    return text if len(text) <= _PATH else f"…{text[1 - _PATH :]}"


def some(names: Sequence[str], room: int = 80) -> str:
    """The first names, as many as fit into so many characters, and how many more there are."""
    count, length = 1, len(names[0])
    while count < len(names) and length + 2 + len(names[count]) <= room:
        length += 2 + len(names[count])
        count += 1
    text = ", ".join(names[:count])
    text = text if len(text) <= room else f"{text[: room // 2]}…{text[1 - room // 2 :]}"
    return text + (f" and {len(names) - count} more" if len(names) > count else "")


def reason(error: BaseException) -> str:
    """The first line of what another library says, cut where it is long."""
    text = " ".join((str(error).strip() or type(error).__name__).split("\n")[0].split())
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"


def sentence(text: str) -> str:
    """A sentence of 500 characters at most, in one line: its middle, where the long names are, is cut out."""
    text = " ".join(text.split())
    return text if len(text) <= _SENTENCE else f"{text[:180]}…{text[181 - _SENTENCE :]}"
