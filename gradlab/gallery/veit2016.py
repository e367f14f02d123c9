"""The figures of "Residual Networks Behave Like Ensembles of Relatively Shallow Networks" (Veit et al. 2016)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradlab.experiments.lesion.lesion import lesion
from gradlab.gallery.figure import Figure, NotAtHand, Options
from gradlab.results.lesion.result import LesionResult
from gradlab.zoo import zoo_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

PAPER = "Veit et al. 2016, Residual Networks Behave Like Ensembles of Relatively Shallow Networks, arXiv:1605.06431"

_TOY: dict[str, Any] = {"models": ("resnet20@trained", "plain20@trained"), "images": 4, "batch_size": 4, "samples": 2}
_IMAGES: dict[str, Any] = {"images": 200, "batch_size": 100}
_BUNDLED = (
    "The weights are those bundled with gradlab, trained for fewer epochs than the paper's; their errors are below.",
)
_UNITS = (
    "The network has the original units of He et al. 2015, in which a ReLU follows every addition and stays when the "
    "branch is deleted; the paper describes units with pre-activation.",
)


def _trained(*names: str, **options: Any) -> Options:
    """The options with bundled networks of these names."""
    if missing := [name for name in names if name not in zoo_names()]:
        raise NotAtHand(f"trained weights of {', '.join(missing)} are not bundled")
    return {"models": tuple(f"{name}@trained" for name in names), **options}


def _figure(result: LesionResult, which: str) -> Drawing:
    return result.figure(which)


def _lengths(result: LesionResult) -> pd.DataFrame:
    return result.lengths_frame()


FIGURES = (
    Figure(
        name="veit2016-fig3",
        paper=PAPER,
        figure="Fig. 3",
        title="Error with one part deleted",
        claim="Deleting any layer of VGG brings it to the error of random guesses; deleting one module of a residual "
        "network of 110 layers hardly changes its error, a little more where a module down-samples.",
        command=("lesion", "--figure", "deletion"),
        experiment=lesion,
        options=partial(_trained, "resnet110", "plain56", images=500, studies=("delete",)),
        toy={**_TOY, "studies": ("delete",)},
        draw=partial(_figure, which="deletion"),
        differs=(
            "The plain network is that of He et al. 2015 with 56 layers and batch normalization in place of VGG; its "
            "layers that change the shape are not deleted.",
            *_UNITS,
            *_BUNDLED,
            "Errors are those on 500 test images of CIFAR-10.",
        ),
    ),
    Figure(
        name="veit2016-fig5",
        paper=PAPER,
        figure="Fig. 5",
        title="Error with several modules deleted, and with blocks reordered",
        claim="The error of a residual network rises smoothly with the number of deleted modules, and smoothly as the "
        "order of its blocks moves away from the original one, as one expects of an ensemble.",
        command=("lesion", "--figure", "several"),
        experiment=lesion,
        options=partial(_trained, "resnet110", "plain56", **_IMAGES, studies=("several", "reorder")),
        toy={**_TOY, "studies": ("several", "reorder"), "several": (2, 4), "swaps": (1, 2)},
        draw=partial(_figure, which="several"),
        differs=(
            "A plain network of 56 layers is also drawn; its blocks have two layers each.",
            *_UNITS,
            *_BUNDLED,
            "Errors are those on 200 test images of CIFAR-10; bands are 95 % intervals over five random choices.",
        ),
    ),
    Figure(
        name="veit2016-fig6",
        paper=PAPER,
        figure="Fig. 6",
        title="Gradients on paths by their length",
        claim="The lengths of the paths through 54 modules are binomial, 95 % of them from 19 to 35; the gradient on a "
        "path falls exponentially with its length; “almost all of the gradient updates during training come from paths "
        "between 5 and 17 modules long”, 0.45 % of all paths: of 10 to 34 of the 110 layers.",
        command=("lesion", "--figure", "paths"),
        experiment=lesion,
        options=partial(_trained, "resnet110", images=1000, batch_size=100, studies=("paths",), paths=1000),
        toy={**_TOY, "models": ("resnet20@trained",), "studies": ("paths",), "paths": 3},
        draw=partial(_figure, which="paths"),
        table=_lengths,
        differs=(
            "A path's norm is that of the gradient of one example: 1,000 draws of every length, from 1,000 test "
            "images. The paper has 1,000 of every length too, each of a random batch of training images.",
            *_UNITS,
            *_BUNDLED,
        ),
    ),
)
