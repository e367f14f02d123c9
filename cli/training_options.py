"""The options common to all commands that train networks."""

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.text import items

from . import options

Data = Annotated[
    str,
    typer.Option(
        help="The data: cifar10, cifar100 or PATH.npz; for networks of tokens tokens, tokens:markov or text:PATH.",
        metavar="DATA",
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="he2015: the recipe of the paper, 64k iterations. fast: 30 epochs with a one-cycle schedule. adamw: 1,000 "
        "iterations of AdamW with warm-up and a cosine, for transformers.",
        metavar="PRESET",
    ),
]
Optimizer = Annotated[str | None, typer.Option(help="The optimizer: sgd, adam or adamw.", metavar="NAME")]
Beta1 = Annotated[float | None, typer.Option("--beta1", help="Adam's β₁, of the mean of gradients.", metavar="X")]
Beta2 = Annotated[
    float | None, typer.Option("--beta2", help="Adam's β₂, of the mean of squared gradients.", metavar="X")
]
WarmUp = Annotated[
    int | None,
    typer.Option(
        "--warmup", "--warm-up", help="The number of steps over which the learning rate rises linearly.", metavar="N"
    ),
]
Decayed = Annotated[
    str | None,
    typer.Option(
        help="The parameters with weight decay: all, or matrices, without biases and gains.", metavar="all|matrices"
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
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", "--lr", help="The largest learning rate.", metavar="X")
]
Schedule = Annotated[
    str | None,
    typer.Option(help="The schedule of the learning rate: steps, one-cycle, cosine or constant.", metavar="NAME"),
]
Momentum = Annotated[float | None, typer.Option(help="The momentum of SGD.", metavar="X")]
Nesterov = Annotated[bool | None, typer.Option(help="Use Nesterov momentum.")]
WeightDecay = Annotated[
    float | None, typer.Option(help="The weight decay; with adamw it is decoupled from the gradient.", metavar="X")
]
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
WarmUpRate = Annotated[
    float | None,
    typer.Option(help="The learning rate of the paper's warm-up, which ends at a training error of 80 %.", metavar="X"),
]
WarmUpDepth = Annotated[
    int | None, typer.Option(help="The number of layers from which there is the paper's warm-up.", metavar="N")
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
    optimizer: Optimizer = None
    learning_rate: LearningRate = None
    schedule: Schedule = None
    warm_up: WarmUp = None
    momentum: Momentum = None
    nesterov: Nesterov = None
    beta1: Beta1 = None
    beta2: Beta2 = None
    weight_decay: WeightDecay = None
    decayed: Decayed = None
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
