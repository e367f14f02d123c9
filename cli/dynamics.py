"""`gradlab dynamics`: what runs recorded of their layers."""

from pathlib import Path
from typing import Annotated, Literal

import typer

import gradlab as gl

from . import options
from .saving import Saving

Name = Literal["grad_norm", "response_std", "relative"]
Runs = Annotated[list[Path], typer.Argument(help="Folders of runs, finished or not.", metavar="RUN")]
Statistic = Annotated[
    list[str] | None,
    typer.Option(
        help="What the figure shows: grad_norm, response_std, relative. Default: the first two, as recorded.",
        metavar="LIST",
        callback=options.reading(options.some_of(Name)),
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
