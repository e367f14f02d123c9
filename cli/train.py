"""`gradlab train`: train a network by the recipe of the paper."""

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl
from gradlab.experiments.request import Request, asked

from . import options
from .console import output
from .live import training_view
from .processes import is_first
from .training_options import TrainingOptions


@dataclass(frozen=True, kw_only=True)
class NetworkRequest(Request):
    """The network to train."""

    model: str = asked(MISSING, "The network, without weights.", "NAME", "--model", "-m")


Resume = Annotated[
    Path | None,
    typer.Option(help="Continue this run or checkpoint, even if recipe or device differ.", metavar="PATH"),
]
Out = Annotated[Path | None, typer.Option(help="The folder of the run. Default: runs/NAME.", metavar="DIR")]


@options.with_options(network="model")
def train(
    named: NetworkRequest,
    training: TrainingOptions,
    resume: Resume = None,
    out: Out = None,
    quiet: options.Quiet = False,
) -> None:
    """Train a network by the recipe of He et al. 2015, §4.2, a fast one, or one for transformers.

    The same command continues a run that was stopped or killed. Writes checkpoint.pt, metrics.csv and record.json, and
    with --record also dynamics.csv, for `gradlab dynamics`.

        gradlab train resnet20 --preset fast --epochs 2

        gradlab train plain56 --record responses,gradients --every log

        gradlab train gpt4-width=128 --data text:book.txt --preset adamw

        gradlab responses --model resnet20@runs/resnet20/checkpoint.pt
    """
    arguments = training.arguments()
    with training_view(quiet, arguments["recipe"].batch_size) as view:
        result = gl.train(named.model, **arguments, out=out, resume=resume, **view)
    if not quiet and is_first():
        console, folder = output(), result.folder or Path()
        console.print(result)
        files = sorted(path.name for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
        console.print(f"{folder}/: {', '.join(files)}", markup=False, style="dim")
