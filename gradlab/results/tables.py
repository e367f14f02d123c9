"""A frame as a table: in a terminal, or as CSV, LaTeX or Markdown text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradlab.results.fitting import fitted, folded
from gradlab.results.readable import readable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, Group, RenderableType

Formats = Mapping[str, Callable[[Any], str]]
"""The formats of the values of columns, by title."""

MISSING = "–"
"""The text of a missing value."""

TABLE_FORMATS = ("csv", "latex", "markdown")
TABLE_SUFFIXES = {"csv": "csv", "latex": "tex", "markdown": "md"}


def formatted(frame: pd.DataFrame, formats: Formats) -> pd.DataFrame:
    """The frame as text: columns in their formats, other floats with four digits, and missing values as a dash."""
    columns = {
        title: [MISSING if pd.isna(value) else formats.get(title, _text)(value) for value in frame[title]]
        for title in frame.columns
    }
    return pd.DataFrame(columns, dtype=object)


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rich_table(
    frame: pd.DataFrame, formats: Formats, title: str | None = None, priority: Sequence[str] = ()
) -> TerminalTable:
    """A table for the terminal; see `TerminalTable`.

    Args:
        frame: The frame to print.
        formats: The formats of the values, by column.
        title: The title above the table.
        priority: The titles of columns in order of importance; others follow from left to right.
    """
    numeric = {str(name) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])}
    return TerminalTable(formatted(frame, formats), numeric, title, priority)


@dataclass(frozen=True)
class TerminalTable:
    """A table that leaves out its least important columns if the terminal is too narrow, and names them.

    Attributes:
        text: The cells.
        numeric: The columns of numbers, which are right-aligned.
        title: The title above the table.
        priority: The titles of columns in order of importance; others follow from left to right.
    """

    text: pd.DataFrame
    numeric: Collection[str]
    title: str | None = None
    priority: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        # Rich is imported only when a table is printed, since its import draws from Python's random numbers.
        from rich import box
        from rich.table import Table
        from rich.text import Text

        text = self.text.rename(columns=lambda title: readable(str(title), options.encoding))
        text = text.map(lambda cell: readable(cell, options.encoding))
        shown = fitted(text, [readable(title, options.encoding) for title in self.priority], options.max_width)
        numeric = {readable(title, options.encoding) for title in self.numeric}
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for name, width in shown.widths.items():
            table.add_column(Text(name), justify="right" if name in numeric else "left", width=width, overflow="fold")
        for row in text[[*shown.widths]].itertuples(index=False):
            cells = zip(row, shown.widths.values(), strict=True)
            table.add_row(*(Text(cell if len(cell) <= width else folded(cell, width)) for cell, width in cells))
        if self.title:
            yield Text(readable(self.title, options.encoding), style="bold")
        yield table
        if shown.left_out:
            yield Text(f"At this width without the columns {', '.join(shown.left_out)}.", style="dim")


@dataclass(frozen=True)
class Lines:
    """Sentences for the terminal, each after a mark, or as a paragraph if the mark is empty."""

    lines: Sequence[str]
    mark: str = ""
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 1, 0, 0))
        for line in self.lines:
            cells = [self.mark, line] if self.mark else [line]
            grid.add_row(*(Text(readable(cell, options.encoding), style=self.style) for cell in cells))
        if self.lines:
            yield grid


def sentences(findings: Sequence[str], notes: Sequence[str], coverage: Sequence[str] = ()) -> Group:
    """Findings, coverage and notes for the terminal, one item per sentence."""
    from rich.console import Group

    return Group(Lines(findings, "•"), Lines(coverage, "◦"), Lines(notes, "!", "yellow"))


def text_table(frame: pd.DataFrame, formats: Formats, kind: str) -> str:
    """A table as text.

    Args:
        frame: The frame to print.
        formats: The formats of the values in `latex` and `markdown`; `csv` keeps every digit.
        kind: The kind of text: `csv`, `latex` (booktabs) or `markdown`.
    """
    if kind == "csv":
        return str(frame.to_csv(index=False))
    text = formatted(frame, formats)
    numeric = [bool(pd.api.types.is_numeric_dtype(frame[name])) for name in frame.columns]
    if kind == "markdown":
        align = ["right" if right else "left" for right in numeric]
        return str(text.to_markdown(index=False, colalign=align, disable_numparse=True)) + "\n"
    columns = "".join("r" if right else "l" for right in numeric)
    latex = str(text.to_latex(index=False, escape=True, column_format=columns))
    # What pandas leaves as it is, older fonts do not have.
    for character, command in {"–": "--", "×": r"$\times$", "÷": r"$\div$", "±": r"$\pm$"}.items():
        latex = latex.replace(character, command)
    return "% needs \\usepackage{booktabs}\n" + latex
