"""A frame as a table: in a terminal, or as CSV, LaTeX or Markdown text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from rich.table import Table

Formats = Mapping[str, Callable[[Any], str]]
"""How to print the values of a column, by its title."""

MISSING = "–"
"""What stands in the place of a missing value."""

TABLE_FORMATS = ("csv", "latex", "markdown")
TABLE_SUFFIXES = {"csv": "csv", "latex": "tex", "markdown": "md"}


def formatted(frame: pd.DataFrame, formats: Formats) -> pd.DataFrame:
    """The frame as text, each column by its own format, else floats in four digits; missing values are a dash."""
    columns = {
        title: [MISSING if pd.isna(value) else formats.get(title, _text)(value) for value in frame[title]]
        for title in frame.columns
    }
    return pd.DataFrame(columns, dtype=object)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rich_table(frame: pd.DataFrame, formats: Formats, title: str | None = None) -> Table:
    """A table for the terminal; numbers to the right."""
    # Not before a table is printed: rich draws from Python's random numbers when it is imported.
    from rich import box
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold", pad_edge=False)
    for name in frame.columns:
        numeric = pd.api.types.is_numeric_dtype(frame[name])
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in formatted(frame, formats).itertuples(index=False):
        table.add_row(*(re.sub(r"\[", r"\\[", cell) for cell in row))
    return table


def sentences(findings: Sequence[str], notes: Sequence[str], coverage: Sequence[str] = ()) -> Table:
    """What is seen, what was measured and what is to be known, for the terminal: one item a sentence."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1, 0, 0))
    for mark, style, lines in (("•", "", findings), ("◦", "", coverage), ("!", "yellow", notes)):
        for line in lines:
            grid.add_row(mark, Text(line), style=style)
    return grid


def text_table(frame: pd.DataFrame, formats: Formats, kind: str) -> str:
    """A table as text.

    Args:
        frame: What to print.
        formats: Used for `latex` and `markdown`; `csv` keeps every digit.
        kind: `csv`, `latex` (booktabs) or `markdown`.
    """
    if kind == "csv":
        return str(frame.to_csv(index=False))
    text = formatted(frame, formats)
    numeric = [bool(pd.api.types.is_numeric_dtype(frame[name])) for name in frame.columns]
    if kind == "markdown":
        align = ["right" if right else "left" for right in numeric]
        return str(text.to_markdown(index=False, colalign=align, disable_numparse=True)) + "\n"
    text = text.map(_latex)
    text.columns = [_latex(name) for name in text.columns]
    columns = "".join("r" if right else "l" for right in numeric)
    return "% needs \\usepackage{booktabs}\n" + str(text.to_latex(index=False, escape=False, column_format=columns))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "×": r"$\times$",
    "÷": r"$\div$",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
