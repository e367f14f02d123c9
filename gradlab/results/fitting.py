"""The columns of a table that fit into a width, by importance, and their widths, without breaking words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

GAP = 2
"""The space between two columns: the margin of a column, and the line that this kind of box does not draw."""

LEAST = 3
"""The number of columns that are always shown; if they are too wide, their names are folded."""

_NUMBER = re.compile(r"[-+(]?[\d.,]+(e[-+]?\d+)?[%)]?")
_BREAK = re.compile(r"(?<=[./@:])(?=\S)")


@dataclass(frozen=True)
class Fitted:
    """The layout of a table that fits.

    Attributes:
        widths: The widths of the shown columns in order.
        left_out: The titles of the other columns.
    """

    widths: dict[str, int]
    left_out: list[str]


def fitted(text: pd.DataFrame, priority: Sequence[str], width: int) -> Fitted:
    """Leave out the least important columns until the others fit, and fold names if they do not.

    Args:
        text: The cells as printed.
        priority: The titles in order of importance; others follow from left to right.
        width: The available width in characters.
    """
    widths = {str(title): max(map(len, [*_words(str(title)), *text[title]])) for title in text}
    order = [title for title in priority if title in widths]
    order += [title for title in widths if title not in order]
    while _total(widths.values()) > width and len(widths) > LEAST:
        del widths[order.pop()]
    missing = _total(widths.values()) - width
    for title in sorted(widths, key=lambda title: -widths[title]):
        if missing > 0:
            least = max(map(len, [*_words(title), *(part for cell in text[title] for part in _parts(cell))]))
            narrower = max(least, widths[title] - missing)
            missing -= widths[title] - narrower
            widths[title] = narrower
    for title in widths:
        # A title is on one line if there is room for it.
        if (more := len(title) - widths[title]) > 0 and missing + more <= 0:
            widths[title] += more
            missing += more
    return Fitted(widths, [str(title) for title in text if title not in widths])


def folded(text: str, width: int) -> str:
    """A text in lines of at most this width, broken between words and after dots and slashes in names."""
    lines = [""]
    for part in _parts(text):
        if lines[-1] and len((lines[-1] + part).rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)


def _total(widths: Iterable[int]) -> int:
    listed = list(widths)
    return sum(listed) + GAP * (len(listed) - 1)


def _words(text: str) -> list[str]:
    return text.split() or [""]


def _parts(text: str) -> list[str]:
    """The parts into which a text may be broken; joined they are the text."""
    words = re.findall(r"\S+\s*|^\s+", text) or [""]
    return [part for word in words for part in ([word] if _is_number(word) else _BREAK.split(word))]


def _is_number(word: str) -> bool:
    return bool(_NUMBER.fullmatch(word.strip()))
