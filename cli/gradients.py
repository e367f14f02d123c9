"""`gradlab gradients`: per-layer gradient norms."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

import gradlab as gl
from gradlab.errors import UsageError

from . import options
from .console import one_of, progress_bar, split
from .report import file_kinds, report

Layers = Annotated[
    str | None,
    typer.Option(
        help="Layers to measure, a glob ('layer3.*'). Default: convolutions and linear layers but projections of "
        "shortcuts.",
        metavar="GLOB",
    ),
]
Seeds = Annotated[int, typer.Option(help="Sets of initial weights of each network at init.", metavar="N")]
Seed = Annotated[int, typer.Option(help="The first seed of initial weights, and that of noise.", metavar="N")]
Loss = Annotated[
    str,
    typer.Option(
        help="cross-entropy, or sum: of the outputs, which needs no labels; mean over images.", metavar="LOSS"
    ),
]
Mode = Annotated[
    str,
    typer.Option(
        help="What table and figure show. parameters: norms of the weights' gradients. responses: RMS of the "
        "gradient with respect to each layer's response. The files have both.",
        metavar="MODE",
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="float32 or float64. Default: float32, and float64 where a small batch shows float32 to be off by more "
        "than 0.5 %, or with --per-example an image's loss is below 1e-5. An explicit float32 is marked there, not "
        "replaced.",
        metavar="DTYPE",
    ),
]
PerExample = Annotated[
    bool,
    typer.Option(
        "--per-example",
        help="Also each image's own gradient: mean norm, variance, noise scale, diversity and cosine by layer. Takes "
        "--bn eval.",
    ),
]


def gradients(
    model: options.Models,
    weights: options.Weights = None,
    seeds: Seeds = 5,
    loss: Loss = "cross-entropy",
    mode: Mode = "parameters",
    data: options.Data = "cifar10-sample",
    images: options.Images = 128,
    bn: options.BatchNorm = None,
    dtype: Dtype = None,
    per_example: PerExample = False,
    layers: Layers = None,
    normalize: options.Normalize = None,
    layers_table: options.LayersTable = False,
    table: options.TableFormat = None,
    batch_size: options.BatchSize = 128,
    device: options.Device = "auto",
    seed: Seed = 0,
    out: options.Out = Path("results/gradients"),
    format: options.Format = ["png,pdf"],  # noqa: B006
    quiet: options.Quiet = False,
) -> None:
    """Measure the gradient of the loss layer by layer, from the last layer to the first.

    Shown are the norm of each weight's gradient, the first 3×3 layer's over the last one's, and the growth a
    layer of the second moment, beside what the literature says of initial weights: He et al. 2015 (1502.01852):
    constant without normalization (mlp50-norm=none, or plain nets with --bn eval, in --mode responses). Yang et al.
    2019 (1902.08129): by π/(π − 1) with batch normalization (plain nets, mlp50-norm=bn). De and Smith 2020
    (2002.10444): a power of depth with shortcuts (residual nets).

    With --bn batch a gradient belongs to one batch, and norms are averaged over full batches; with --bn eval it is
    that of the mean loss over all images. Writes gradients.csv (a row a seed and layer), gradients.json (how it was
    made) and the figure.

        gradlab gradients --model plain20,plain56,resnet20,resnet56 --weights init

        gradlab gradients --model mlp50-norm=none@init --data noise --loss sum --mode responses
    """
    from gradlab.normalization import split_specs
    from gradlab.results.files import prepare_folder
    from gradlab.results.tables import rich_table

    formats, tables = file_kinds(format, table)
    models = split(model)
    if not models:
        raise UsageError("--model names no network")
    for option, given, choices in (
        ("--bn", bn, ("eval", "batch")),
        ("--loss", loss, ("cross-entropy", "sum")),
        ("--mode", mode, ("parameters", "responses")),
        ("--dtype", dtype, ("float32", "float64")),
    ):
        one_of(option, [] if given is None else [given], choices)
    prepare_folder(out)
    with progress_bar(quiet) as progress:
        result = gl.gradients(
            models,
            data,
            weights=weights,
            images=images,
            batch_size=batch_size,
            device=device,
            seed=seed,
            seeds=seeds,
            loss=cast(Literal["cross-entropy", "sum"], loss),
            mode=mode,
            bn=cast(Literal["eval", "batch"] | None, bn),
            layers=layers,
            normalize=split_specs(normalize) if normalize else None,
            dtype=cast(Literal["float32", "float64"] | None, dtype),
            per_example=per_example,
            progress=progress,
        )
    shown = result.networks if layers_table else []
    details = [rich_table(result.layers_table(network), result.formats, title=network) for network in shown]
    report(result, out, formats, tables, quiet, details)
