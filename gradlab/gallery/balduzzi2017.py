"""The figures of "The Shattered Gradients Problem" (Balduzzi et al. 2017), with theory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from gradlab.experiments.activations.activations import activations
from gradlab.experiments.degradation import degradation, member
from gradlab.experiments.input_gradients.input_gradients import input_gradients
from gradlab.experiments.shatter.shatter import shatter
from gradlab.gallery.figure import Figure, NotAtHand, Options
from gradlab.gallery.runs import RUNS
from gradlab.plots.style import look
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.input_gradients.result import InputGradientsResult
from gradlab.results.label import description
from gradlab.results.shatter.result import ShatterResult
from gradlab.results.training.result import TrainingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PAPER = "Balduzzi et al. 2017, The Shattered Gradients Problem, arXiv:1702.08591"

FIG_1 = (("ff", 1), ("ff", 24), ("resnet-beta=0.1", 50))
"""The networks of Fig. 1: the net of 24 layers subtracts means, and that of 50 has batch normalization and β = 0.1."""

LOOKS_LINEAR = ("plain-ll-width=8", "plain-crelu-width=8", "resnet-width=8")
LOOKS_LINEAR_DEPTHS = (8, 20, 56, 110)
"""The nets of Fig. 6: CReLU with looks-linear and with He's initialization, and residual nets."""

_TOY_NETS = {"seeds": 2, "width": 20, "points": 32, "lags": 4}


def _signals(result: ShatterResult) -> Drawing:
    """Fig. 1 of the networks in the paper, or of all measured networks if those were not measured."""
    shown = {key: result.gradients[key] for key in FIG_1 if key in result.gradients}
    return ShatterResult(result.frame, result.record, gradients=shown or result.gradients, x=result.x).figure("signals")


def _gradients(result: ShatterResult) -> pd.DataFrame:
    """One row per input and one column per network, depth and seed, with five digits."""
    columns = {
        f"{network} depth {depth} seed {seed}": signal
        for (network, depth), signals in result.gradients.items()
        if (network, depth) in FIG_1
        for seed, signal in enumerate(signals)
    }
    return pd.DataFrame({"x": result.x, **columns}).map("{:.5g}".format)


def _correlation(result: ShatterResult) -> pd.DataFrame:
    """The statistics by depth, including the correlation of an average pair through the layers so far."""
    layers = result.layers_frame.assign(depth=result.layers_frame["layer"], statistic="mean_path_correlation")
    names = {"mean_path_correlation": "value", "mean_path_sem": "sem", "law": "theory"}
    columns = ["network", "norm", "depth", "statistic", "value", "sem", "theory", "seeds"]
    by_depth = result.summary_frame[result.summary_frame["statistic"] != "mean_path_correlation"]
    return pd.concat([by_depth, layers.rename(columns=names)])[columns]


def looks_linear_runs() -> Options:
    """The depths at which the looks-linear, the CReLU and the residual net have complete runs."""
    runs = RUNS / "looks-linear"

    def is_complete(name: str) -> bool:
        return (runs / name / "record.json").exists() and bool(TrainingResult.load(runs / name).record.get("complete"))

    depths = [d for d in LOOKS_LINEAR_DEPTHS if all(is_complete(member(family, d)) for family in LOOKS_LINEAR)]
    if not depths:
        raise NotAtHand(
            f"no finished runs of looks-linear, CReLU and residual nets of one depth are in {runs}/ (gradlab train "
            "--model plain20-ll-width=8 with --optimizer adam, and the other two)"
        )
    return {"depths": tuple(depths), "families": LOOKS_LINEAR, "runs": str(runs), "train_missing": False}


def _accuracies(result: DegradationResult) -> pd.DataFrame:
    """One row per network: its series and depth, and its test accuracy in percent."""
    summary = result.summary().set_index("network")
    nets = {network: description(result.facts(network)) for network in summary.index}
    return pd.DataFrame(
        {
            "network": list(nets),
            "series": [net["series"] for net in nets.values()],
            "depth": [net["depth"] for net in nets.values()],
            "test accuracy (%)": 100 - summary["test error (%)"].to_numpy(float),
            "epochs": summary["epochs"].to_numpy(float),
        }
    )


def _draw_accuracies(result: DegradationResult) -> Drawing:
    from matplotlib.figure import Figure as Drawing

    from gradlab.results.degradation.figure import accuracies_figure

    nets = [description(result.facts(network)) for network in result.networks]
    looks = {str(net["series"]): look(net["kind"], net["unit"]) for net in nets}
    return accuracies_figure(_accuracies(result), looks, 10.0, Drawing())


def _statistics(result: InputGradientsResult) -> pd.DataFrame:
    """The statistics that are single numbers."""
    return result.frame[result.frame["lag"].isna()].drop(columns=["lag", "acf_pooled", "n_constant"])


FIGURES = (
    Figure(
        name="balduzzi2017-fig1",
        paper=PAPER,
        figure="Fig. 1",
        title="Gradients as signals",
        claim="The gradient of a shallow feedforward net looks like brown noise, that of a deep one like white noise; "
        "that of a residual net is in between.",
        command=("shatter", "--figure", "signals"),
        experiment=shatter,
        options=lambda: {"depths": (1, 24, 50), "families": ("ff", "resnet-beta=0.1")},
        toy={"depths": (1, 2), **_TOY_NETS},
        draw=_signals,
        table=_gradients,
        differs=(
            "The covariance is over 20 networks, each scaled to unit energy, and is shown as a correlation.",
            "The figure that the command draws shows the feedforward net at its greatest depth instead of 24 layers.",
        ),
    ),
    Figure(
        name="balduzzi2017-fig2",
        paper=PAPER,
        figure="Fig. 2",
        title="Autocorrelation of gradients",
        claim="With depth the autocorrelation of the gradients of feedforward nets falls to that of white noise; that "
        "of residual nets with batch normalization falls much more slowly, and with β = 0.1 hardly.",
        command=("shatter",),
        experiment=shatter,
        options=lambda: {"depths": (2, 4, 10, 24, 50), "families": ("ff", "resnet", "resnet-beta=0.1", "ll")},
        toy={"depths": (2, 3), **_TOY_NETS},
        draw=lambda result: result.figure("acf"),
        differs=(
            "Feedforward nets subtract the mean of every neuron over the inputs: without it they do not shatter.",
            "Looks-linear nets are also drawn.",
        ),
    ),
    Figure(
        name="balduzzi2017-coactivation",
        paper=PAPER,
        figure="§3, the figure of activations and co-activations",
        title="Activation and co-activation across layers",
        claim="With batch normalization neurons are active for half of the inputs and co-active for a quarter of the "
        "pairs, as coin flips; without it co-activation tends to one half and neurons to being always on or off.",
        command=("shatter", "--figure", "coactivation"),
        experiment=shatter,
        options=lambda: {"depths": (50,), "families": ("ff-norm=none", "ff-norm=bn", "resnet", "resnet-beta=0.1")},
        toy={"depths": (9,), **_TOY_NETS},
        draw=lambda result: result.figure("coactivation"),
        table=lambda result: result.layers_frame,
        differs=("Nets have 200 neurons per layer and one input, as in Fig. 1 and 2.",),
    ),
    Figure(
        name="balduzzi2017-fig4",
        paper=PAPER,
        figure="Fig. 4",
        title="Which rectifiers are active along a line of inputs",
        claim="In deep feedforward nets with batch normalization the activity of rectifiers is dispersed like white "
        "noise, in short runs of neighbouring inputs; in residual nets it comes in long runs, and in longer ones with "
        "β = 0.1.",
        command=("activations",),
        experiment=activations,
        options=lambda: {"depth": 50},
        toy={"depth": 3, "seeds": 2, "width": 20, "points": 32},
        table=lambda result: result.runs_frame,
        differs=(
            "Nets have 200 neurons per layer and one input, as in Fig. 1 and 2; rasters are those of one net, runs and "
            "rates those of 20.",
            "Runs are beside those of independent coin flips, and the rate at which neurons switch is shown for every "
            "layer, without normalization beside its limit at infinite width.",
        ),
    ),
    Figure(
        name="balduzzi2017-fig6",
        paper=PAPER,
        figure="Fig. 6",
        title="Accuracy of looks-linear nets against depth",
        claim="With looks-linear initialization, nets of concatenated ReLUs without shortcuts train at depths at which "
        "the same nets with the usual initialization do not, and there they are about as accurate as residual nets.",
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=looks_linear_runs,
        toy={"depths": (8,), "families": ("plain", "resnet"), "runs": "runs", "train_missing": False},
        draw=_draw_accuracies,
        table=_accuracies,
        differs=(
            "Nets of He et al. 2015 with 8 channels in the first stage, one run each of 300 steps with batches of 64 "
            "images: 0.38 epochs, after which all nets are far from their final accuracy. The figure shows which of "
            "them begin to learn.",
            "All nets have one recipe: Adam with a learning rate of 3e-4, a warm-up of 50 steps and a cosine.",
            "Residual nets have batch normalization, the other two none. CReLU nets have twice as many inputs per "
            "convolution, and so about twice as many weights.",
            "The time above is that of reading the runs, not of training.",
        ),
    ),
    Figure(
        name="balduzzi2017-effective-rank",
        paper=PAPER,
        figure="the figure of relative effective rank",
        title="Effective rank of input gradients on images",
        claim="Convolutional nets also shatter: nets with skip connections are far more resistant to it than those "
        "without, and looks-linear initialization prevents it.",
        command=("shatter",),
        experiment=input_gradients,
        options=lambda: {
            "models": tuple(
                f"{family}{depth}{suffix}"
                for family, suffix in (("plain", ""), ("resnet", ""), ("resnet", "-beta=0.1"), ("plain", "-ll"))
                for depth in (8, 20, 56)
            ),
            "weights": "init",
            "images": 256,
            "batch_size": 256,
            "points": 64,
        },
        toy={
            "models": ("plain8@init", "resnet8@init"),
            "images": 8,
            "batch_size": 4,
            "points": 8,
            "lags": 2,
            "seeds": 2,
        },
        table=_statistics,
        differs=(
            "Convolutional nets of He et al. 2015 on one batch of 256 images of CIFAR-10, four seeds each.",
            "Rows are scaled to unit length first; raw rows, which a few large gradients dominate, are in the table.",
            "Segments have 64 points; with more the autocorrelation at lag 1 is higher.",
        ),
    ),
    Figure(
        name="balduzzi2017-highway",
        paper=PAPER,
        figure="§3, the corollary on highway networks",
        title="Correlation of gradients in highway nets",
        claim="In highway nets γx + βWρ(x) with γ² + β² = 1 gradients keep their size, and their correlation is "
        "(γ² + β²/2)^L: it falls exponentially with depth if the gates are constant, and stays if β² falls as 1/L.",
        command=("shatter", "--figure", "theory"),
        experiment=shatter,
        options=lambda: {
            "depths": (1, 2, 4, 8, 16, 32, 64, 128),
            "families": (
                "resnet",
                "resnet-shortcut=0.8-beta=0.6",
                "resnet-shortcut=0.96-beta=0.28",
                "resnet-shortcut=0.99712-beta=0.07584",
            ),
        },
        toy={"depths": (1, 2), **_TOY_NETS},
        draw=lambda result: result.figure("theory"),
        table=_correlation,
        differs=(
            "The paper has no such figure: it states the law, for gates that do not depend on the input.",
            "Nets have batch normalization, which centres, and start with the variance of the first layer on this "
            "line; the law takes both into account.",
        ),
    ),
    Figure(
        name="theory-correlation",
        paper="gradlab, after Balduzzi et al. 2017, §3",
        figure="ours",
        title="Correlation of gradients against depth, with exact theory",
        claim="The correlation of the gradients at two inputs falls as 2^−L in feedforward nets whose neurons are "
        "active like coin flips, and in normalized residual nets as Γ(L+a+½)Γ(a+1)/(Γ(a+½)Γ(L+a+1)) with "
        "a = 1/β², of which the paper quotes the asymptote 1/(β√L).",
        command=("shatter", "--figure", "theory"),
        experiment=shatter,
        options=lambda: {
            "depths": (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
            "families": ("ff-norm=none", "ff-norm=center", "ff-norm=bn", "resnet", "resnet-beta=0.1"),
            "width": 512,
        },
        toy={"depths": (1, 2), **_TOY_NETS},
        draw=lambda result: result.figure("theory"),
        table=_correlation,
        differs=(
            "The paper has no such figure: it states the laws as theorems.",
            "Exact theory on the left is the infinite-width limit of nets without normalization and of nets that "
            "centre; for batch normalization on a line there is none. Nets are 512 wide, so that the limit holds at "
            "128 layers.",
            "The law on the right is that of independent coin flips; neurons of the first layers are not independent. "
            "For residual nets it starts with the variance of the first layer on this line, and takes into account "
            "that batch normalization centres.",
        ),
    ),
)
