"""`gradlab figures`: the figures of the papers, rebuilt."""

from pathlib import Path
from typing import Annotated

import typer

from gradlab.errors import GradlabError, UsageError
from gradlab.experiments.text import items

from . import options
from .console import notes, output, progress_bar

Names = Annotated[
    list[str] | None,
    typer.Argument(help="The names of figures; --list shows them.", metavar="[NAME]...", show_default=False),
]
List = Annotated[bool, typer.Option("--list", help="List the figures, and the reasons why some cannot be built here.")]
All = Annotated[
    bool, typer.Option("--all", help="Build all figures for which the data is available, and name those skipped.")
]


def figures(
    names: Names = None,
    list_: List = False,
    all_: All = False,
    device: options.Device = "auto",
    out: options.Out = Path("figures"),
    format: options.Format = None,
    quiet: options.Quiet = False,
) -> None:
    """Rebuild the figures of the papers, each with its rows and its record.

    Writes NAME.png, NAME.pdf, NAME.csv (the rows drawn) and NAME.json (claim, command and record) for each figure, and
    README.md, which shows all figures.

        gradlab figures --list

        gradlab figures balduzzi2017-fig2
    """
    from gradlab.gallery import FIGURES, find_figures, readme, render
    from gradlab.results.files import prepared_folder, write_atomically

    asked = find_figures(items(names or []))
    if list_ + all_ + bool(asked) != 1:
        raise UsageError("name figures, or give --list or --all")
    if list_:
        _print_list()
        return
    built = False
    with prepared_folder(out):
        for figure in FIGURES if all_ else asked:
            missing = figure.missing()
            if missing and all_:
                notes().print(f"skipped {figure.name}: {missing}", markup=False)
                continue
            with progress_bar(quiet) as progress:
                result, paths = render(figure, out, device=device, formats=format or (), progress=progress)
            built = True
            if not quiet:
                _print_built(figure.title, result.findings(), out, paths)
        if not built:
            raise GradlabError("no figure could be built with what is at hand")
        write_atomically(out / "README.md", readme(out).encode())


def _print_list() -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from gradlab.gallery import FIGURES

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    # Names are not wrapped, so that they can be copied.
    table.add_column("name", no_wrap=True)
    table.add_column("shows", overflow="fold")
    for figure in FIGURES:
        missing = figure.missing()
        shows = [figure.title, f"[dim]{escape(figure.paper.partition(',')[0])}: {escape(figure.figure)}[/dim]"]
        shows += [] if missing is None else [f"[yellow]not here: {escape(missing)}[/yellow]"]
        table.add_row(figure.name, "\n".join(shows))
    output().print(table)


def _print_built(title: str, findings: list[str], out: Path, paths: list[Path]) -> None:
    from gradlab.results.tables import sentences

    console = output()
    console.print(title, style="bold", markup=False)
    console.print(sentences(findings, []))
    console.print(f"{out}/: {', '.join(path.name for path in paths)}\n", markup=False, style="dim")
