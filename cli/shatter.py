"""`gradlab shatter`: correlation of gradients across depth."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

import gradlab as gl
from gradlab.errors import UsageError

from . import options
from .console import one_of, progress_bar, split
from .report import file_kinds, report

Depths = Annotated[
    list[str] | None,
    typer.Option(
        help="ReLU layers, or residual blocks; comma-separated or repeated. Default: 8,32,128.", metavar="LIST"
    ),
]
Families = Annotated[
    list[str] | None,
    typer.Option(
        help="ff, resnet and ll (looks linear), with settings: ff-norm=none|center|rms|bn, resnet-norm=…, "
        "resnet-beta=0.1, ff-norm=none-bias=0. Plain ff means center up to depth 50 and bn above. "
        "Default: ff,resnet,resnet-beta=0.1,ll.",
        metavar="LIST",
    ),
]
NormGrad = Annotated[
    str,
    typer.Option(
        help="frozen: statistics of normalization held fixed in the gradient, as in the theorems. full: through them.",
        metavar="MODE",
    ),
]
Width = Annotated[int, typer.Option(help="Neurons a layer.", metavar="N")]
Points = Annotated[int, typer.Option(help="Inputs on the line, evenly spaced.", metavar="N")]
Range = Annotated[str, typer.Option("--range", help="First and last input, as -2:2.", metavar="FROM:TO")]
Seeds = Annotated[
    int | None,
    typer.Option(help="Networks of each family and depth. Default: 20; 4 of each --model at init.", metavar="N"),
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Image networks, NAME[@WEIGHTS]; comma-separated or repeated.", metavar="LIST"),
]
Seed = Annotated[int, typer.Option(help="Seed of the first network; the others follow it.", metavar="N")]
Lags = Annotated[int, typer.Option(help="The largest lag.", metavar="N")]
Init = Annotated[str, typer.Option(help="Hidden weights: he, glorot, orthogonal.", metavar="INIT")]
Dtype = Annotated[str, typer.Option(help="Arithmetic of the networks: float32, float64.", metavar="DTYPE")]
Figures = Annotated[
    list[str],
    typer.Option(
        help="acf; signals (gradients and their covariance, Fig. 1); correlation (against depth, beside the laws); "
        "coactivation (a layer each); theory (against depth, beside exact theory).",
        metavar="LIST",
    ),
]


def shatter(
    depths: Depths = None,
    families: Families = None,
    model: Models = None,
    norm_grad: NormGrad = "frozen",
    figure: Figures = ["acf"],  # noqa: B006
    seeds: Seeds = None,
    lags: Lags = 20,
    width: Width = 200,
    points: Points = 256,
    range_: Range = "-2:2",
    init: Init = "he",
    dtype: Dtype = "float32",
    weights: options.Weights = None,
    data: options.Data = "cifar10-sample",
    images: options.Images = 200,
    bn: options.BatchNorm = None,
    normalize: options.Normalize = None,
    batch_size: options.BatchSize = 100,
    table: options.TableFormat = None,
    device: options.Device = "auto",
    seed: Seed = 0,
    out: options.Out = Path("results/shatter"),
    format: options.Format = ["png,pdf"],  # noqa: B006
    quiet: options.Quiet = False,
) -> None:
    """Measure how gradients lose correlation with depth (Balduzzi et al. 2017, Fig. 1 and 2).

    Random fully connected nets with scalar inputs on a line: the autocorrelation of their gradients along it,
    biased, the mean over networks; co-activation; correlation at a pair of inputs; exact theory where there is
    any. Batch statistics are those of the whole line. Without normalization a feedforward net does not shatter.

    Writes shatter.csv (a row a lag), shatter-summary.csv (a row a statistic), shatter-layers.csv,
    gradients.npz, shatter.json (how it was made) and the figures.

        gradlab shatter --depths 8,32,128

        gradlab shatter --depths 1,24,50 --families ff,resnet --figure signals

    With --model, the input gradients of image networks: of the summed logits, for each image. Their effective rank
    relative to Gaussian noise, cosines, and the autocorrelation between two images, against depth. Of the options
    above these take norm-grad, seeds, lags, points and dtype.

        gradlab shatter --model plain20,resnet20,plain56,resnet56 --weights init
    """
    from gradlab.normalization import split_specs
    from gradlab.results.files import prepare_folder
    from gradlab.results.shatter.result import FIGURES

    formats, tables = file_kinds(format, table)
    figures = one_of("--figure", split(figure), FIGURES)
    models = split(model)
    if models and (depths or families or figures != ["acf"]):
        raise UsageError("--model measures image networks, which have no --depths, --families or --figure")
    if bn is not None:
        one_of("--bn", [bn], ("eval", "batch"))
    prepare_folder(out)
    with progress_bar(quiet) as progress:
        if models:
            result: gl.Result = gl.input_gradients(
                models,
                data,
                weights=weights,
                images=images,
                batch_size=batch_size,
                device=device,
                seed=seed,
                seeds=4 if seeds is None else seeds,
                bn=cast(Literal["eval", "batch"] | None, bn),
                norm_grad=cast(Literal["frozen", "full"], norm_grad),
                points=points,
                lags=lags,
                normalize=split_specs(normalize) if normalize else None,
                dtype=cast(Literal["float32", "float64"], dtype),
                progress=progress,
            )
        else:
            result = measured = gl.shatter(
                _whole_numbers("--depths", split(depths) or ["8", "32", "128"]),
                split(families) or ["ff", "resnet", "resnet-beta=0.1", "ll"],
                seeds=20 if seeds is None else seeds,
                lags=lags,
                width=width,
                points=points,
                interval=_interval(range_),
                norm_grad=cast(Literal["frozen", "full"], norm_grad),
                init=cast(Literal["he", "glorot", "orthogonal"], init),
                dtype=dtype,
                device=device,
                seed=seed,
                progress=progress,
            )
            measured.figures = figures
    report(result, out, formats, tables, quiet)


def _whole_numbers(option: str, texts: list[str]) -> list[int]:
    for text in texts:
        if not text.isdecimal():
            raise UsageError(f"{option} takes whole numbers, not {text!r}")
    return [int(text) for text in texts]


def _interval(text: str) -> tuple[float, float]:
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"--range takes FROM:TO, as -2:2, not {text!r}") from None
    return first, last
