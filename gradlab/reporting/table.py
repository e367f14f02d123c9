"""Frames as sortable tables of a page."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from numbers import Real
from typing import Any

import pandas as pd

from gradlab.results.tables import MISSING, Formats, formatted


@dataclass(frozen=True)
class Cell:
    """The text of a cell and its sort key, which is empty if the value is missing or not a number."""

    text: str
    key: str = ""

    @property
    def missing(self) -> bool:
        """Whether the value is missing."""
        return self.text == MISSING


@dataclass(frozen=True)
class Table:
    """A caption, the title of each column with whether it is numeric, and rows of cells."""

    caption: str
    columns: list[tuple[str, bool]]
    rows: list[tuple[Cell, ...]]


def make_table(frame: pd.DataFrame, formats: Formats, caption: str) -> Table:
    """Convert a frame to a table; a column is numeric if all its values can be read as numbers.

    Args:
        frame: The frame to show.
        formats: The formats of the values by column.
        caption: The caption of the table.
    """
    text = formatted(frame, formats)
    columns, cells = [], []
    for title in frame.columns:
        keys = [number(value) for value in frame[title]]
        shown = list(text[title])
        numeric = any(key is not None for key in keys) and all(
            key is not None or cell == MISSING for key, cell in zip(keys, shown, strict=True)
        )
        columns.append((str(title), numeric))
        cells.append([_cell(cell, key if numeric else None) for cell, key in zip(shown, keys, strict=True)])
    return Table(caption, columns, list(zip(*cells, strict=True)))


def number(value: Any) -> float | None:
    """The number that a value is; None for a text, a truth value and a missing value."""
    known = isinstance(value, Real) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if known else None


def _cell(text: str, key: float | None) -> Cell:
    if key is None:
        return Cell(text)
    # A hyphen before a digit of a number is shown as a minus sign.
    shown = re.sub(r"(?<![\w.])-(?=[\d.])|(?<=e)-(?=\d)", "−", text)
    return Cell(shown, "Infinity" if key == math.inf else "-Infinity" if key == -math.inf else repr(key))
