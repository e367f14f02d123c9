"""`gradlab shatter`: correlation of gradients across depth."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

import gradlab as gl
from gradlab.errors import UsageError

from . import options
from .console import one_of, progress_bar, split
from .report import report

Depths = Annotated[
    list[str], typer.Option(help="ReLU layers, or residual blocks; comma-separated or repeated.", metavar="LIST")
]
Families = Annotated[
    list[str],
    typer.Option(
        help="ff, resnet and ll (looks linear), with settings: ff-norm=none|center|rms|bn, resnet-norm=…, "
        "resnet-beta=0.1, ff-norm=none-bias=0. Plain ff means center up to depth 50 and bn above.",
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
Seeds = Annotated[int, typer.Option(help="Networks of each family and depth.", metavar="N")]
Seed = Annotated[int, typer.Option(help="Seed of the first network; the others follow it.", metavar="N")]
Lags = Annotated[int, typer.Option(help="The largest lag.", metavar="N")]
Init = Annotated[str, typer.Option(help="Hidden weights: he, glorot, orthogonal.", metavar="INIT")]
Dtype = Annotated[str, typer.Option(help="Arithmetic of the networks: float32, float64.", metavar="DTYPE")]
Figures = Annotated[
    list[str],
    typer.Option(
        help="acf; signals (gradients and their covariance, Fig. 1); correlation (against depth, beside the laws); "
        "coactivation (a layer each).",
        metavar="LIST",
    ),
]


def shatter(
    depths: Depths = ["8,32,128"],  # noqa: B006
    families: Families = ["ff,resnet,resnet-beta=0.1,ll"],  # noqa: B006
    norm_grad: NormGrad = "frozen",
    figure: Figures = ["acf"],  # noqa: B006
    seeds: Seeds = 20,
    lags: Lags = 20,
    width: Width = 200,
    points: Points = 256,
    range_: Range = "-2:2",
    init: Init = "he",
    dtype: Dtype = "float32",
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
    """
    from gradlab.results.files import prepare_folder
    from gradlab.results.result import FIGURE_FORMATS
    from gradlab.results.shatter import FIGURES
    from gradlab.results.tables import TABLE_FORMATS

    formats = one_of("--format", split(format), FIGURE_FORMATS)
    tables = one_of("--table", split(table), TABLE_FORMATS)
    figures = one_of("--figure", split(figure), FIGURES)
    prepare_folder(out)
    with progress_bar(quiet) as progress:
        result = gl.shatter(
            _whole_numbers("--depths", split(depths)),
            split(families),
            seeds=seeds,
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
    result.figures = figures
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
