"""`gradlab shatter`: correlation of gradients across depth, of random nets or, with --model, of image networks."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.experiments.input_gradients.request import InputGradientsRequest
from gradlab.experiments.request import asked, option_of
from gradlab.experiments.shatter.request import ShatterRequest

from . import options
from .processes import is_first, processes
from .saving import Saving

FigureName = Literal["acf", "signals", "correlation", "coactivation", "theory"]


@dataclass(frozen=True, kw_only=True)
class NetsRequest(ShatterRequest):
    """Random nets, and the figures to draw."""

    figure: Sequence[FigureName] = asked(
        ("acf",),
        "acf; signals (gradients and their covariance, Fig. 1); correlation (against depth, with the laws); "
        "coactivation (layer by layer); theory (against depth, with exact theory). Default: acf.",
        "LIST",
        typed=list[str],
        read=options.some_of(get_args(FigureName)),
    )


OF_NETS = {known.name: known for known in fields(NetsRequest)}
OF_NETWORKS = {known.name: known for known in fields(InputGradientsRequest)}


def shatter(**values: Any) -> None:
    """Measure the loss of correlation of gradients with depth (Balduzzi et al. 2017, Fig. 1 and 2).

    Without --model, random fully connected nets with scalar inputs on a line are measured: the biased autocorrelation
    of their gradients along the line, averaged over networks; co-activation; correlation at a pair of inputs; and exact
    theory if there is any. Batch statistics are those of the whole line. Without normalization a feedforward net does
    not shatter.

    Writes shatter.csv (one row per lag), shatter-summary.csv (one row per statistic), shatter-layers.csv,
    gradients.npz, shatter.json (the record) and the figures.

        gradlab shatter --depths 8,32,128

        gradlab shatter --depths 1,24,50 --families ff,resnet --figure signals

    With --model, the input gradients of image networks are measured, which are those of the summed logits for each
    image: their effective rank relative to Gaussian noise, cosines, and the autocorrelation between two images, against
    depth. Image networks share the options norm-grad, seeds, lags, points, dtype, device and seed with random nets.

        gradlab shatter --model plain20,resnet20,plain56,resnet56 --weights init
    """
    values = options.with_networks(values)
    given = {name: value for name, value in values.items() if name in OF_NETS | OF_NETWORKS and value is not None}
    saving = Saving(**options.given(Saving, values))
    if "models" in given:
        _refuse(given, OF_NETWORKS, OF_NETS, "is of random nets, and --model names image networks")
        request = InputGradientsRequest(**given)
        with saving.progress() as progress:
            measured = gl.input_gradients(**request.arguments(), progress=progress)
        saving.report(measured)
        return
    _refuse(given, OF_NETS, OF_NETWORKS, "is of image networks, and no --model names one")
    arguments = NetsRequest(**given).arguments()
    figures = arguments.pop("figure")
    # Nets that several processes have done are kept, so that the same command goes on if one of them fails.
    parts = saving.out / ".parts"
    with saving.progress() as progress:
        keep = parts if processes() > 1 or parts.is_dir() else None
        result = gl.shatter(**arguments, keep=keep, progress=progress)
    result.figures = figures
    saving.report(result)
    if keep is not None and is_first():
        from gradlab.experiments.shatter.parts import forget

        forget(parts)


def _refuse(given: Mapping[str, Any], known: Mapping[str, Any], other: Mapping[str, Any], reason: str) -> None:
    """Refuse options that belong only to the other measurement."""
    if wrong := next((name for name in given if name not in known), None):
        raise UsageError(f"{options.names_of(other[wrong])[0]} {reason}")


def _parameters() -> Iterator[inspect.Parameter]:
    """The options of both measurements, without repetitions and without defaults, so that given options are known."""
    for name, known in (OF_NETS | OF_NETWORKS).items():
        defaults = [of[name].default for of in (OF_NETS, OF_NETWORKS) if name in of]
        told = known.default not in (None, MISSING) and not option_of(known).read
        yield options.option(known, None, "; with --model ".join(dict.fromkeys(map(str, defaults))) if told else False)


shatter = options.with_parameters(
    shatter, [options.NETWORKS, *_parameters(), *options.options_of(Saving, out=Path("results/shatter"))]
)
