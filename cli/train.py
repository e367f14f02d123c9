"""`gradlab train`: train a network by the paper's recipe."""

from pathlib import Path
from typing import Annotated

import typer

import gradlab as gl

from . import options
from .console import notes, output

Model = Annotated[str, typer.Option("--model", "-m", help="The network, without weights.", metavar="NAME")]
Preset = Annotated[
    str,
    typer.Option(
        help="he2015: the paper's recipe, 64k iterations. fast: 30 epochs, a one-cycle schedule.", metavar="PRESET"
    ),
]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training images.", metavar="N")]
Iterations = Annotated[int | None, typer.Option(help="Optimizer steps.", metavar="N")]
BatchSize = Annotated[int | None, typer.Option(help="Images a step.", metavar="N")]
LearningRate = Annotated[float | None, typer.Option(help="The largest learning rate.", metavar="X")]
Schedule = Annotated[str | None, typer.Option(help="steps or one-cycle.", metavar="NAME")]
Momentum = Annotated[float | None, typer.Option(help="Of SGD.", metavar="X")]
Nesterov = Annotated[bool | None, typer.Option(help="Nesterov's momentum.")]
WeightDecay = Annotated[float | None, typer.Option(help="On every parameter.", metavar="X")]
LabelSmoothing = Annotated[float | None, typer.Option(help="Of the cross-entropy.", metavar="X")]
Padding = Annotated[int | None, typer.Option(help="Zeros around an image before the crop.", metavar="N")]
Flip = Annotated[bool | None, typer.Option(help="Mirror half of the images.")]
Validation = Annotated[
    int | None, typer.Option(help="Training images held out, to choose by; 5000 in the paper.", metavar="N")
]
Normalize = Annotated[str | None, typer.Option(help="mean-image, cifar10, imagenet, none, …", metavar="SPEC")]
WarmUpRate = Annotated[float | None, typer.Option(help="Learning rate of the warm-up.", metavar="X")]
WarmUpDepth = Annotated[int | None, typer.Option(help="Layers from which there is a warm-up.", metavar="N")]
Amp = Annotated[str | None, typer.Option(help="bf16, off, or auto: bf16 where the device gains.", metavar="MODE")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the network.")]
Resume = Annotated[
    Path | None,
    typer.Option(help="Go on from this run or checkpoint, even where recipe or device differ.", metavar="PATH"),
]
CheckpointEvery = Annotated[int, typer.Option(help="Steps between checkpoints.", metavar="N")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run. Default: runs/NAME.", metavar="DIR")]
Data = Annotated[str, typer.Option(help="cifar10, cifar100, or PATH.npz.", metavar="DATA")]
Seed = Annotated[int, typer.Option(help="Of initial weights, order and crops.", metavar="N")]


def train(
    model: Model,
    data: Data = "cifar10",
    preset: Preset = "he2015",
    epochs: Epochs = None,
    iterations: Iterations = None,
    seed: Seed = 0,
    amp: Amp = None,
    compile: Compile = False,
    resume: Resume = None,
    out: Out = None,
    device: options.Device = "auto",
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    schedule: Schedule = None,
    momentum: Momentum = None,
    nesterov: Nesterov = None,
    weight_decay: WeightDecay = None,
    label_smoothing: LabelSmoothing = None,
    padding: Padding = None,
    flip: Flip = None,
    validation: Validation = None,
    normalize: Normalize = None,
    warm_up_rate: WarmUpRate = None,
    warm_up_depth: WarmUpDepth = None,
    checkpoint_every: CheckpointEvery = 500,
    quiet: options.Quiet = False,
) -> None:
    """Train a network by the recipe of He et al. 2015, §4.2, or a fast one.

    The same command goes on where a run was stopped or killed. Writes checkpoint.pt, metrics.csv and record.json.

        gradlab train --model resnet20 --preset fast --epochs 2

        gradlab responses --model resnet20@runs/resnet20/checkpoint.pt
    """
    from gradlab.training import Status
    from gradlab.training import preset as recipe_of

    recipe = recipe_of(preset).changed(
        epochs=epochs,
        iterations=iterations,
        batch_size=batch_size,
        learning_rate=learning_rate,
        schedule=schedule,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        padding=padding,
        flip=flip,
        validation=validation,
        normalization=normalize,
        warm_up_rate=warm_up_rate,
        warm_up_depth=warm_up_depth,
        amp=amp,
    )
    console = notes()

    def observe(status: Status) -> None:
        row = status.metrics
        tested = f"  test {row['test_loss']:.4f} {row['test_error']:.2%}" if "test_error" in row else ""
        console.print(
            f"step {status.step:,}/{status.steps:,}  epoch {row['epoch']:.1f}  rate {row['learning_rate']:.4g}  "
            f"train {row['train_loss']:.4f} {row['train_error']:.2%}{tested}  {status.images_per_second:,.0f} images/s",
            soft_wrap=True,
        )

    result = gl.train(
        model,
        data,
        recipe=recipe,
        out=out,
        seed=seed,
        device=device,
        compiled=compile,
        resume=resume,
        checkpoint_every=checkpoint_every,
        observe=None if quiet else observe,
    )
    if not quiet:
        output().print(result)
