"""`gradlab dynamics`: statistics of layers recorded by runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

import gradlab as gl
from gradlab.errors import UsageError

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
        callback=options.reading(options.some_of(get_args(FigureName))),
    ),
]
Layer = Annotated[
    str | None, typer.Option(help="Also draw every statistic of this layer; total is the whole model.", metavar="NAME")
]


Compare = Annotated[bool, typer.Option("--compare", help="Find where two runs part beyond noise, and draw both.")]


@options.with_options(out=Path("results/dynamics"))
def dynamics(
    runs: Runs,
    saving: Saving,
    statistic: Statistic = None,
    figure: Figures = None,
    layer: Layer = None,
    compare: Compare = False,
) -> None:
    """Draw gradient norms and response std of every layer during training, above the error curves.

    Reads the output of `gradlab train --record responses,gradients`, also during training, and what gl.watch wrote.
    Writes dynamics.csv, dynamics.json (the record), dynamics-errors.csv and the figures.

        gradlab dynamics runs/plain56 runs/resnet56

        gradlab dynamics runs/plain56 --figure maps,bands --layer layer2.0.conv1

    With --compare, finds the first step and layer at which two runs part: bit by bit, and beyond noise at a rate of
    false alarms of 1 % for runs that differ by their seeds. Writes compare-runs.csv, compare-runs.json and a figure of
    both runs and their difference, with its beginning marked.

        gradlab dynamics runs/plain56 runs/resnet56 --compare
    """
    if compare:
        _compare(runs, saving, statistic or (), figure, layer)
        return
    result = gl.dynamics(runs)
    if statistic:
        result.drawn = statistic
    result.layer = layer
    result.figures = [*dict.fromkeys([*(figure or ["maps"]), *(["layer"] if layer else [])])]
    with saving.progress():
        saving.report(result)


def _compare(runs: Sequence[Path], saving: Saving, drawn: Sequence[str], *others: object) -> None:
    if len(runs) != 2:
        raise UsageError(f"--compare is of two runs, and {len(runs)} {'are' if len(runs) > 1 else 'is'} named")
    if any(others):
        raise UsageError("--figure and --layer draw runs by themselves: leave them or --compare out")
    with saving.progress():
        result = gl.compare_runs(*runs)
        result.drawn = drawn
    saving.report(result)
