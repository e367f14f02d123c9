"""`gradlab degradation`: plain and residual nets across depth."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl
from gradlab.experiments.request import Request, asked
from gradlab.experiments.text import items, whole_numbers

from . import options
from .live import training_view
from .saving import Saving
from .training_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class NetsRequest(Request):
    """Which nets to train."""

    depths: Sequence[int] = asked(
        (20, 32, 44, 56, 110),
        "Weighted layers; comma-separated or repeated. Default: 20,32,44,56,110.",
        "LIST",
        typed=list[str],
        read=whole_numbers,
    )
    families: Sequence[str] = asked(
        ("plain", "resnet"),
        "plain, resnet, also with what follows the depth: resnet-B, resnet-preact. Default: plain,resnet.",
        "LIST",
        typed=list[str],
        read=items,
    )


Runs = Annotated[Path, typer.Option(help="Folder of the runs, each in one of its network's name.", metavar="DIR")]
Train = Annotated[
    bool,
    typer.Option("--train/--no-train", help="Train what is missing, or read the runs that are there as they are."),
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

    One training after another, the shallow first; a run that stopped goes on, one that is complete is read. Writes
    degradation.csv, degradation.json (how it was made) and the figure, and prints the errors beside the paper's.

        gradlab degradation --depths 20,56 --preset fast

        gradlab degradation --no-train
    """
    from gradlab.results.files import prepare_folder

    arguments = training.arguments()
    prepare_folder(saving.out)
    with training_view(saving.quiet, arguments["recipe"].batch_size) as view:
        result = gl.degradation(
            list(dict.fromkeys(nets.depths)),
            list(dict.fromkeys(nets.families)),
            **arguments,
            runs=runs,
            train_missing=train,
            **view,
        )
    saving.report(result)
