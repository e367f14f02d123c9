"""`gradlab degradation`: plain and residual nets across depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl
from gradlab.experiments.request import MOST, Request, asked
from gradlab.experiments.text import items, whole_numbers

from . import options
from .live import training_view
from .saving import Saving
from .training_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class NetsRequest(Request):
    """The nets to train."""

    depths: Sequence[int] = asked(
        (20, 32, 44, 56, 110),
        "The numbers of weighted layers; comma-separated or repeated. Default: 20,32,44,56,110.",
        "LIST",
        typed=list[str],
        read=whole_numbers,
    )
    families: Sequence[str] = asked(
        ("plain", "resnet"),
        "plain or resnet, with options if any: resnet-B, resnet-preact. Default: plain,resnet.",
        "LIST",
        typed=list[str],
        read=items,
    )
    seeds: int = asked(
        1,
        "The number of seeds of every network, from --seed on; further runs are in DIR/NAME-seedN.",
        "N",
        least=1,
        most=MOST,
    )


Runs = Annotated[
    Path, typer.Option(help="The folder of the runs, each in a folder with the name of its network.", metavar="DIR")
]
Train = Annotated[
    bool,
    typer.Option("--train/--no-train", help="Train the missing runs, or only read existing runs."),
]


@options.with_options(out=Path("results/degradation"))
def degradation(
    training: TrainingOptions,
    nets: NetsRequest,
    saving: Saving,
    runs: Runs = Path("runs"),
    train: Train = True,
) -> None:
    """Train plain and residual nets of several depths, and draw their errors (He et al. 2015, Fig. 6).

    Networks are trained one after another, beginning with the shallowest; an interrupted run is continued, and a
    complete run is read. Writes degradation.csv, degradation.json (the record) and the figure, and prints the errors
    next to those of the paper.

        gradlab degradation --depths 20,56 --preset fast

        gradlab degradation --no-train
    """
    from gradlab.results.files import prepared_folder

    arguments = training.arguments()
    with prepared_folder(saving.out), training_view(saving.quiet, arguments["recipe"].batch_size) as view:
        result = gl.degradation(
            list(dict.fromkeys(nets.depths)),
            list(dict.fromkeys(nets.families)),
            seeds=nets.seeds,
            **arguments,
            runs=runs,
            train_missing=train,
            **view,
        )
    saving.report(result)
