"""`gradlab dynamics`: what runs recorded of their layers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl

from . import options
from .saving import Saving


def _statistics(texts: Iterable[str]) -> list[str]:
    """The statistics of a list that there are."""
    from gradlab.results.dynamics.result import STATISTICS

    return options.some_of(STATISTICS)(texts)


Runs = Annotated[
    list[Path], typer.Argument(help="Folders of runs, finished or not, or files that gl.watch wrote.", metavar="RUN")
]
Statistic = Annotated[
    list[str] | None,
    typer.Option(
        help="What the figure shows: grad_norm, response_std, relative, or what else was recorded. Default: the first "
        "two, as recorded.",
        metavar="LIST",
        callback=options.reading(_statistics),
    ),
]


@options.with_options(out=Path("results/dynamics"))
def dynamics(runs: Runs, saving: Saving, statistic: Statistic = None) -> None:
    """Draw gradient norms and response std of every layer along a training, over its error curves.

    Reads what `gradlab train --record responses,gradients` wrote, also while it trains. Writes dynamics.csv,
    dynamics.json (how it was made), dynamics-errors.csv and the figure.

        gradlab dynamics runs/plain56 runs/resnet56
    """
    result = gl.dynamics(runs)
    if statistic:
        result.drawn = statistic
    with saving.progress():
        saving.report(result)
