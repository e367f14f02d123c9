"""The options common to all commands that train networks."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.text import items

from . import options

Data = Annotated[str, typer.Option(help="The data: cifar10, cifar100, or PATH.npz.", metavar="DATA")]
Preset = Annotated[
    str,
    typer.Option(
        help="he2015: the recipe of the paper, 64k iterations. fast: 30 epochs with a one-cycle schedule.",
        metavar="PRESET",
    ),
]
Epochs = Annotated[int | None, typer.Option(help="The number of passes over the training images.", metavar="N")]
Iterations = Annotated[int | None, typer.Option(help="The number of optimizer steps.", metavar="N")]
Seed = Annotated[int, typer.Option(help="The seed of initial weights, order and crops.", metavar="N")]
Amp = Annotated[
    str | None,
    typer.Option(help="Mixed precision: bf16, off, or auto for bf16 on devices where it is faster.", metavar="MODE"),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network.")]
Record = Annotated[
    list[str] | None,
    typer.Option(
        help="The statistics of every layer to record in dynamics.csv: responses, gradients.",
        metavar="LIST",
        callback=options.reading(items),
    ),
]
Every = Annotated[
    str, typer.Option(help="The number of steps between records, or log: evenly spaced on a log axis.", metavar="N")
]
Log = Annotated[str | None, typer.Option(help="tensorboard: also write its events file into the run.", metavar="SINK")]
BatchSize = Annotated[int | None, typer.Option(help="The number of images per step.", metavar="N")]
LearningRate = Annotated[float | None, typer.Option(help="The largest learning rate.", metavar="X")]
Schedule = Annotated[
    str | None, typer.Option(help="The schedule of the learning rate: steps or one-cycle.", metavar="NAME")
]
Momentum = Annotated[float | None, typer.Option(help="The momentum of SGD.", metavar="X")]
Nesterov = Annotated[bool | None, typer.Option(help="Use Nesterov momentum.")]
WeightDecay = Annotated[float | None, typer.Option(help="The weight decay of every parameter.", metavar="X")]
LabelSmoothing = Annotated[float | None, typer.Option(help="The label smoothing of the cross-entropy.", metavar="X")]
Padding = Annotated[int | None, typer.Option(help="The number of zeros around an image before the crop.", metavar="N")]
Flip = Annotated[bool | None, typer.Option(help="Mirror half of the images.")]
Validation = Annotated[
    int | None,
    typer.Option(help="The number of training images held out for validation; 5000 in the paper.", metavar="N"),
]
Normalize = Annotated[
    str | None, typer.Option(help="The normalization: mean-image, cifar10, imagenet, none, …", metavar="SPEC")
]
WarmUpRate = Annotated[float | None, typer.Option(help="The learning rate of the warm-up.", metavar="X")]
WarmUpDepth = Annotated[
    int | None, typer.Option(help="The number of layers from which there is a warm-up.", metavar="N")
]
CheckpointEvery = Annotated[int, typer.Option(help="The number of steps between checkpoints.", metavar="N")]


@dataclass(frozen=True)
class TrainingOptions:
    """The options for training, one field each."""

    data: Data = "cifar10"
    preset: Preset = "he2015"
    epochs: Epochs = None
    iterations: Iterations = None
    seed: Seed = 0
    amp: Amp = None
    compile: Compile = False
    device: options.Device = "auto"
    record: Record = None
    every: Every = "100"
    log: Log = None
    batch_size: BatchSize = None
    learning_rate: LearningRate = None
    schedule: Schedule = None
    momentum: Momentum = None
    nesterov: Nesterov = None
    weight_decay: WeightDecay = None
    label_smoothing: LabelSmoothing = None
    padding: Padding = None
    flip: Flip = None
    validation: Validation = None
    normalize: Normalize = None
    warm_up_rate: WarmUpRate = None
    warm_up_depth: WarmUpDepth = None
    checkpoint_every: CheckpointEvery = 500

    def arguments(self) -> dict[str, Any]:
        """The arguments for `gl.train` and `gl.degradation`."""
        if not (self.every.isdecimal() and len(self.every) <= 9) and self.every != "log":
            raise UsageError(f"--every takes a number of steps or log, not {self.every!r}")
        return {
            "data": self.data,
            "recipe": self.recipe(),
            "seed": self.seed,
            "device": self.device,
            "compiled": self.compile,
            "checkpoint_every": self.checkpoint_every,
            "record": self.record or [],
            "every": "log" if self.every == "log" else int(self.every),
            "log": self.log,
        }

    def recipe(self) -> "gl.Recipe":
        """The preset, with the fields that were given replaced."""
        from gradlab.training import preset

        base = preset(self.preset)
        shared = base.to_dict().keys() & {field.name for field in fields(self)} - {"preset"}
        return base.changed(**{name: getattr(self, name) for name in shared}, normalization=self.normalize)
