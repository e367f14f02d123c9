"""`gradlab report`: results as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl

from . import options
from .console import output

Results = Annotated[
    list[Path],
    typer.Argument(help="Folders that gradlab's commands wrote, or one above several.", metavar="RESULTS"),
]
Page = Annotated[Path, typer.Option("--out", "-o", help="The HTML file.", metavar="FILE")]
Title = Annotated[str, typer.Option(help="Title of the page.", metavar="TEXT")]


def report(
    results: Results,
    out: Page = Path("report.html"),
    title: Title = "gradlab report",
    quiet: options.Quiet = False,
) -> None:
    """Make one HTML page of results: figures, sortable tables, records, and findings in words.

    Each finding is shown with the rule that triggered it. The page is one file, which opens from disk, loads nothing
    else, and can be printed.

        gradlab report results/responses results/shatter -o report.html
    """
    path = gl.report(results, out, title=title)
    if not quiet:
        output().print(f"{path}", markup=False, style="dim")
