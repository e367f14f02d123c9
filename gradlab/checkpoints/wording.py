"""Short messages about files: paths, names and other libraries' messages are truncated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_PATH = 110
_REASON = 160
_SENTENCE = 500


def shown(path: str | Path) -> str:
    """Format a path for a message; only the end of a long path is shown."""
    text = str(path)
    return text if len(text) <= _PATH else f"…{text[1 - _PATH :]}"


def some(names: Sequence[str], room: int = 80) -> str:
    """List as many names as fit into a number of characters, and count the others."""
    count, length = 1, len(names[0])
    while count < len(names) and length + 2 + len(names[count]) <= room:
        length += 2 + len(names[count])
        count += 1
    text = ", ".join(names[:count])
    text = text if len(text) <= room else f"{text[: room // 2]}…{text[1 - room // 2 :]}"
    return text + (f" and {len(names) - count} more" if len(names) > count else "")


def reason(error: BaseException) -> str:
    """Return the first line of another library's message, truncated."""
    text = " ".join((str(error).strip() or type(error).__name__).split("\n")[0].split())
    return text if len(text) <= _REASON else f"{text[: _REASON - 1]}…"


def sentence(text: str) -> str:
    """Return a text in one line of at most 500 characters; a longer one loses its middle, where the names are."""
    text = " ".join(text.split())
    return text if len(text) <= _SENTENCE else f"{text[:180]}…{text[181 - _SENTENCE :]}"
