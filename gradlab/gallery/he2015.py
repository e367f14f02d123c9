"""The figures and tables of "Deep Residual Learning for Image Recognition" (He et al. 2015)."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from gradlab import hub
from gradlab.experiments.architectures import architectures
from gradlab.experiments.degradation import degradation
from gradlab.experiments.dynamics import dynamics
from gradlab.experiments.responses.responses import responses
from gradlab.gallery.figure import Figure, NotAtHand, Options
from gradlab.gallery.runs import RUNS, complete_runs, known
from gradlab.results.degradation.result import DegradationResult
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.zoo import zoo_names

PAPER = "He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385"

FIG_7 = ("plain20", "plain56", "resnet20", "resnet56", "resnet110")
"""The networks of Fig. 7."""


def trained_networks() -> Options:
    """The networks of Fig. 7 with available weights: bundled ones, or else published ones already downloaded."""
    bundled = [f"{name}@trained" for name in FIG_7 if name in zoo_names()]
    here = bundled or [f"{name}@hub" for name in FIG_7 if _downloaded(name)]
    if not here:
        raise NotAtHand(
            "no trained weights are here: bundled ones are missing, and none are downloaded "
            "(gradlab responses --model resnet20@hub,resnet56@hub,resnet110@hub does that)"
        )
    return {"models": tuple(here)}


def _downloaded(name: str) -> bool:
    entry = hub.published(name)
    return entry is not None and (hub.cache_folder() / entry.file).exists()


def finished_runs() -> Options:
    """The plain and residual nets with complete runs."""
    found = [net for run in complete_runs().values() if (net := known(run))["series"] in ("plain", "resnet")]
    if not found:
        raise NotAtHand(f"no finished run of a plain or residual net is in {RUNS}/ (gradlab degradation trains them)")
    return {
        "depths": tuple(sorted({net["depth"] for net in found})),
        "families": tuple(sorted({net["series"] for net in found})),
        "runs": str(RUNS),
        "train_missing": False,
    }


def recorded_runs() -> Options:
    """The runs of the two nets with 56 layers, if both recorded statistics of layers."""
    runs = tuple(str(RUNS / name) for name in ("plain56", "resnet56"))
    if missing := [run for run in runs if not (Path(run) / "dynamics.csv").exists()]:
        raise NotAtHand(
            f"{' and '.join(missing)} recorded no layers "
            "(gradlab train --model NAME --record responses,gradients --every log does that)"
        )
    return {"runs": runs}


def rows_drawn(result: DynamicsResult) -> pd.DataFrame:
    """The rows of the statistics in the figure."""
    return result.frame[result.frame["statistic"].isin(result.drawn)]


FIGURES = (
    Figure(
        name="he2015-table1",
        paper=PAPER,
        figure="Table 1, and the FLOPs of Fig. 3",
        title="Architectures for ImageNet and their multiply-adds",
        claim="ResNet-152 has 11.3 billion multiply-adds, fewer than VGG-16 and VGG-19; the nets of 34 layers have 18 "
        "% of VGG-19's; a plain and a residual net of equal depth cost the same.",
        command=("models",),
        experiment=architectures,
        options=lambda: {"pattern": "imagenet/[prv][leg]*"},
        toy={"pattern": "imagenet/*18"},
        differs=(
            "Projections of shortcuts are counted; the paper's plain and residual 34-layer nets have none.",
            "The linear layers of VGG-16 are counted, too; the paper's 15.3 billion are those of its convolutions.",
        ),
        arguments=("pattern",),
    ),
    Figure(
        name="he2015-fig7",
        paper=PAPER,
        figure="Fig. 7",
        title="Standard deviation of layer responses",
        claim="ResNets have generally smaller responses than plain nets, and deeper ResNets smaller ones.",
        command=("responses",),
        experiment=responses,
        options=trained_networks,
        toy={"models": ("resnet8@init", "plain8@init"), "images": 8},
        differs=(
            "The responses are those to the 1,000 bundled test images; the paper does not name its images.",
            "The legend gives the origin of the weights, and the table their errors.",
        ),
    ),
    Figure(
        name="he2015-fig6",
        paper=PAPER,
        figure="Fig. 1, and Fig. 6, left and middle",
        title="Training and test error of plain and residual nets",
        claim="Deeper plain nets have the higher training error; ResNets overcome that and gain from depth.",
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=finished_runs,
        toy={},
        table=DegradationResult.curves,
        differs=(
            "The runs are existing ones with the recipes in the table and one seed each; the paper trains for 64,000 "
            "iterations. Networks with different recipes are not comparable. If runs differ in length, the most common "
            "length is drawn.",
            "The training error is measured on the augmented images of each epoch's batches during training.",
            "The time above is that of reading the runs, not of training.",
        ),
    ),
    Figure(
        name="he2015-table6",
        paper=PAPER,
        figure="Table 6",
        title="Errors at the end of training on CIFAR-10, with those of the paper",
        claim="Test errors are 8.75 % for ResNet-20, 7.51 % for 32, 7.17 % for 44, 6.97 % for 56 and 6.43 % for 110 "
        "layers.",
        command=("degradation", "--no-train"),
        experiment=degradation,
        options=finished_runs,
        toy={},
        draw=DegradationResult.last_errors_figure,
        table=DegradationResult.summary,
        differs=(
            "The runs are existing ones with the recipes in the table and one seed each; the paper trains for 64,000 "
            "iterations, and gives the best of five runs for ResNet-110.",
            "Errors are those of the last epoch, not the best. The table of the paper has no plain nets.",
            "The figure marks the paper's errors only for trainings of the same length.",
            "The time above is that of reading the runs, not of training.",
        ),
    ),
    Figure(
        name="dynamics-56",
        paper="gradlab, on the networks of He et al. 2015",
        figure="ours",
        title="Gradients and responses of 56 layers during training",
        claim="The paper has no such figure; it says of its plain nets with 34 layers (§4.1) that with batch "
        "normalization gradients have healthy norms.",
        command=("dynamics",),
        experiment=dynamics,
        options=recorded_runs,
        toy={"runs": ("runs/plain8", "runs/resnet8")},
        table=rows_drawn,
        arguments=("runs",),
        differs=("Norms and standard deviations are those of the batch at each step.",),
    ),
)
