"""The steps of every command around its measurement: folder and progress before it, files and tables after it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import gradlab as gl

from . import options
from .console import notes, output, progress_bar
from .processes import is_first


@dataclass(frozen=True)
class Saving:
    """The options for saving and printing a result."""

    table: options.Table = None
    out: options.Out = Path("results")
    format: options.Format = None
    quiet: options.Quiet = False

    @contextmanager
    def progress(self) -> Iterator[Callable[[str, int, int], None] | None]:
        """Make the folder, which does not stay if the measurement fails, and show the progress."""
        from gradlab.results.files import prepared_folder

        with prepared_folder(self.out), progress_bar(self.quiet) as update:
            yield update

    def report(self, result: "gl.Result", details: Sequence[Any] = ()) -> None:
        """Save a result and print it.

        Args:
            result: The result.
            details: The output to print before the table.
        """
        from gradlab.results.files import described_by
        from gradlab.results.grouping import grouped
        from gradlab.results.tables import sentences, text_table

        if not is_first():
            return
        tables: list[str] = self.table or []
        before = described_by(self.out / result.record_file())
        paths = result.save(self.out, self.format or (), tables)
        if self.quiet:
            return
        console = output()
        for kind in tables:
            typer.echo(text_table(result.summary(), result.formats, kind), nl=False)
        if tables:
            console = notes()
            told = grouped(result.notes, result.networks)
            console.print(sentences(result.findings(), told, result.coverage_lines()))
        else:
            for detail in details:
                console.print(detail)
            console.print(result)
        console.print(f"{self.out}/: {', '.join(path.name for path in paths)}", markup=False, style="dim")
        if left := sorted({path.name for path in before} - {path.name for path in paths}):
            console.print(
                f"{self.out}/ still holds, of an earlier result: {', '.join(left)}", markup=False, style="dim"
            )
