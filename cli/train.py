"""`gradlab train`: train a network by the recipe of the paper."""

from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl

from . import options
from .console import output
from .live import training_view
from .training_options import TrainingOptions

Model = Annotated[str, typer.Option("--model", "-m", help="The network, without weights.", metavar="NAME")]
Resume = Annotated[
    Path | None,
    typer.Option(help="Continue this run or checkpoint, even if recipe or device differ.", metavar="PATH"),
]
Out = Annotated[Path | None, typer.Option(help="The folder of the run. Default: runs/NAME.", metavar="DIR")]


@options.with_options()
def train(
    model: Model,
    training: TrainingOptions,
    resume: Resume = None,
    out: Out = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a network by the recipe of He et al. 2015, §4.2, or a fast one.

    The same command continues a run that was stopped or killed. Writes checkpoint.pt, metrics.csv and record.json, and
    with --record also dynamics.csv, for `gradlab dynamics`.

        gradlab train --model resnet20 --preset fast --epochs 2

        gradlab train --model plain56 --record responses,gradients --every log

        gradlab responses --model resnet20@runs/resnet20/checkpoint.pt
    """
    arguments = training.arguments()
    with training_view(quiet, arguments["recipe"].batch_size) as view:
        result = gl.train(model, **arguments, out=out, resume=resume, **view)
    if not quiet:
        console, folder = output(), result.folder or Path()
        console.print(result)
        files = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        console.print(f"{folder}/: {', '.join(files)}", markup=False, style="dim")
