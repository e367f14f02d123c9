"""`gradlab degradation`: plain and residual nets across depth."""

from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl
from gradlab.errors import UsageError

from . import options
from .console import split
from .live import training_view
from .report import file_kinds, report
from .training_options import TrainingOptions, with_training_options

Depths = Annotated[list[str], typer.Option(help="Weighted layers; comma-separated or repeated.", metavar="LIST")]
Families = Annotated[
    list[str],
    typer.Option(help="plain, resnet, also with what follows the depth: resnet-B, resnet-preact.", metavar="LIST"),
]
Runs = Annotated[Path, typer.Option(help="Folder of the runs, each in one of its network's name.", metavar="DIR")]
Train = Annotated[
    bool,
    typer.Option("--train/--no-train", help="Train what is missing, or read the runs that are there as they are."),
]


@with_training_options
def degradation(
    training: TrainingOptions,
    depths: Depths = ["20,32,44,56,110"],  # noqa: B006
    families: Families = ["plain,resnet"],  # noqa: B006
    runs: Runs = Path("runs"),
    train: Train = True,
    out: options.Out = Path("results/degradation"),
    format: options.Format = ["png,pdf"],  # noqa: B006
    table: options.TableFormat = None,
    quiet: options.Quiet = False,
) -> None:
    """Train plain and residual nets of several depths, and draw their errors (He et al. 2015, Fig. 6).

    One training after another, the shallow first; a run that stopped goes on, one that is complete is read. Writes
    degradation.csv, degradation.json (how it was made) and the figure, and prints the errors beside the paper's.

        gradlab degradation --depths 20,56 --preset fast

        gradlab degradation --no-train
    """
    from gradlab.results.files import prepare_folder

    formats, tables = file_kinds(format, table)
    layers = split(depths)
    for depth in layers:
        if not depth.isdecimal():
            raise UsageError(f"--depths takes numbers of layers, not {depth!r}")
    arguments = training.arguments()
    prepare_folder(out)
    with training_view(quiet, arguments["recipe"].batch_size) as view:
        result = gl.degradation(
            list(dict.fromkeys(map(int, layers))),
            list(dict.fromkeys(split(families))),
            **arguments,
            runs=runs,
            train_missing=train,
            **view,
        )
    report(result, out, formats, tables, quiet)
