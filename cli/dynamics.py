"""`gradlab dynamics`: what runs recorded of their layers."""

from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl

from . import options
from .console import one_of, split
from .report import file_kinds, report

Runs = Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.", metavar="RUN")]
Statistic = Annotated[
    list[str] | None,
    typer.Option(
        help="What the figure shows: grad_norm, response_std, relative. Default: the first two, as recorded.",
        metavar="LIST",
    ),
]


def dynamics(
    runs: Runs,
    statistic: Statistic = None,
    table: options.TableFormat = None,
    out: options.Out = Path("results/dynamics"),
    format: options.Format = ["png,pdf"],  # noqa: B006
    quiet: options.Quiet = False,
) -> None:
    """Draw gradient norms and response std of every layer along a training, over its error curves.

    Reads what `gradlab train --record responses,gradients` wrote, also while it trains. Writes dynamics.csv,
    dynamics.json (how it was made), dynamics-errors.csv and the figure.

        gradlab dynamics runs/plain56 runs/resnet56
    """
    from gradlab.results.dynamics.result import STATISTICS
    from gradlab.results.files import prepare_folder

    formats, tables = file_kinds(format, table)
    drawn = one_of("--statistic", split(statistic), STATISTICS)
    result = gl.dynamics(runs)
    if drawn:
        result.drawn = drawn
    prepare_folder(out)
    report(result, out, formats, tables, quiet)
