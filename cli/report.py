"""What every measuring command does in the end: write the files, print table, findings and notes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

import gradlab as gl

from .console import notes, one_of, output, split


def file_kinds(format: list[str], table: list[str] | None) -> tuple[list[str], list[str]]:
    """The figure formats and the kinds of table that were asked for, held against those there are."""
    from gradlab.results.drawing import FIGURE_FORMATS
    from gradlab.results.tables import TABLE_FORMATS

    return one_of("--format", split(format), FIGURE_FORMATS), one_of("--table", split(table), TABLE_FORMATS)


def report(
    result: gl.Result,
    out: Path,
    formats: Sequence[str],
    tables: Sequence[str],
    quiet: bool,
    details: Sequence[Any] = (),
) -> None:
    """Save a result and print it.

    Args:
        result: What was measured.
        out: Folder for the files.
        formats: Of the figures.
        tables: Kinds of text table to print, and to write, instead of the terminal's.
        quiet: Print nothing.
        details: Printed before the table.
    """
    from gradlab.results.tables import sentences, text_table

    paths = result.save(out, formats, tables)
    if quiet:
        return
    console = output()
    if tables:
        for kind in tables:
            typer.echo(text_table(result.summary(), result.formats, kind), nl=False)
        console = notes()
        console.print(sentences(result.findings(), result.notes))
    else:
        for detail in details:
            console.print(detail)
        console.print(result)
    console.print(f"{out}/: {', '.join(path.name for path in paths)}", markup=False, style="dim")
