"""A result in reading order: the answer, the table, other findings and notes."""

from __future__ import annotations

import io
import shutil
import sys
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from gradlab.results.finding import rule_of
from gradlab.results.grouping import grouped
from gradlab.results.tables import Lines, formatted, rich_table, sentences

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from gradlab.results.result import Result

WIDTH = 160
"""The number of characters per line if no terminal sets it."""


def page(result: Result) -> Group:
    """The result for a terminal of any width."""
    from rich.console import Group

    return Group(*_blocks(result))


def text(result: Result) -> str:
    """The result as text, as a terminal shows it, in the characters and the width of the present one."""
    from rich.console import Console

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", write_through=True)
    width = shutil.get_terminal_size((WIDTH, 0)).columns
    # In a notebook a console displays what it is to write.
    console = Console(
        file=file, width=width, color_system=None, highlight=False, legacy_windows=False, force_jupyter=False
    )
    console.print(page(result))
    file.seek(0)
    return "\n".join(line.rstrip() for line in file.read().splitlines())


def html(result: Result) -> str:
    """The result for a notebook, with all columns; the rule of a finding is shown as its tooltip."""
    answer, more = _told(result)
    title = f"<p><strong>{escape(result.title)}</strong></p>" if result.title else ""
    table = formatted(result.summary(), result.formats).to_html(index=False, border=0)
    legend = "".join(f"<p><small>{escape(line)}</small></p>" for line in result.legend_lines())
    said = "".join(f'<p title="{escape(rule_of(line))}">{escape(line)}</p>' for line in answer)
    lines = [*more, *result.coverage_lines(), *grouped(result.notes, result.networks)]
    items = "".join(f'<li title="{escape(rule_of(line))}">{escape(line)}</li>' for line in lines)
    return f"{title}{said}{table}{legend}{f'<ul>{items}</ul>' if items else ''}"


def _blocks(result: Result) -> Iterator[RenderableType]:
    from rich.text import Text

    answer, more = _told(result)
    if result.title:
        yield Text(result.title, style="bold")
    yield Lines(answer)
    yield ""
    yield rich_table(result.summary(), result.formats, priority=result.priority)
    yield Lines(result.legend_lines(), style="dim")
    yield ""
    yield sentences(more, grouped(result.notes, result.networks), result.coverage_lines())


def _told(result: Result) -> tuple[list[str], list[str]]:
    """The findings that answer the main question, and the others."""
    found = result.findings()
    return found[: result.answer], found[result.answer :]
