"""`gradlab dynamics`: statistics of layers recorded by runs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

import gradlab as gl

from . import options
from .saving import Saving


def _statistics(texts: Iterable[str]) -> list[str]:
    """The statistics named in a list, which must be known."""
    from gradlab.results.dynamics.names import STATISTICS

    return options.some_of(STATISTICS)(texts)


Runs = Annotated[
    list[Path], typer.Argument(help="Folders of runs, finished or not, or files that gl.watch wrote.", metavar="RUN")
]
Statistic = Annotated[
    list[str] | None,
    typer.Option(
        help="The statistics in the figures: grad_norm, response_std, relative, or others that were recorded. Default: "
        "the first two, if recorded.",
        metavar="LIST",
        callback=options.reading(_statistics),
    ),
]
FigureName = Literal["maps", "bands", "layer"]
Figures = Annotated[
    list[str] | None,
    typer.Option(
        help="maps (layer × step in colour); bands (median, 50 % and 90 % of the layers); layer (all statistics of the "
        "layer that --layer names). Default: maps.",
        metavar="LIST",
        callback=options.reading(options.some_of(get_args(FigureName)), ["maps"]),
    ),
]
Layer = Annotated[
    str | None, typer.Option(help="Also draw every statistic of this layer; total is the whole model.", metavar="NAME")
]


@options.with_options(out=Path("results/dynamics"))
def dynamics(
    runs: Runs, saving: Saving, statistic: Statistic = None, figure: Figures = None, layer: Layer = None
) -> None:
    """Draw gradient norms and response std of every layer during training, above the error curves.

    Reads the output of `gradlab train --record responses,gradients`, also during training, and what gl.watch wrote.
    Writes dynamics.csv, dynamics.json (the record), dynamics-errors.csv and the figures.

        gradlab dynamics runs/plain56 runs/resnet56

        gradlab dynamics runs/plain56 --figure maps,bands --layer layer2.0.conv1
    """
    result = gl.dynamics(runs)
    if statistic:
        result.drawn = statistic
    result.layer = layer
    result.figures = [*dict.fromkeys([*(figure or ["maps"]), *(["layer"] if layer else [])])]
    with saving.progress():
        saving.report(result)
