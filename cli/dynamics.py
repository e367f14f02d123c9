"""`gradlab dynamics`: statistics of layers recorded by runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl

from . import options
from .saving import Saving


def _statistics(texts: Iterable[str]) -> list[str]:
    """The statistics named in a list, which must be known."""
    from gradlab.results.dynamics.result import STATISTICS

    return options.some_of(STATISTICS)(texts)


Runs = Annotated[
    list[Path], typer.Argument(help="Folders of runs, finished or not, or files that gl.watch wrote.", metavar="RUN")
]
Statistic = Annotated[
    list[str] | None,
    typer.Option(
        help="The statistics in the figure: grad_norm, response_std, relative, or others that were recorded. Default: "
        "the first two, if recorded.",
        metavar="LIST",
        callback=options.reading(_statistics),
    ),
]


@options.with_options(out=Path("results/dynamics"))
def dynamics(runs: Runs, saving: Saving, statistic: Statistic = None) -> None:
    """Draw gradient norms and response std of every layer during training, above the error curves.

    Reads the output of `gradlab train --record responses,gradients`, also during training. Writes dynamics.csv,
    dynamics.json (the record), dynamics-errors.csv and the figure.

        gradlab dynamics runs/plain56 runs/resnet56
    """
    result = gl.dynamics(runs)
    if statistic:
        result.drawn = statistic
    with saving.progress():
        saving.report(result)
