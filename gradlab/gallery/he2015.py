"""The figures and tables of "Deep Residual Learning for Image Recognition" (He et al. 2015)."""

from __future__ import annotations

from gradlab import hub
from gradlab.experiments import responses
from gradlab.experiments.architectures import architectures
from gradlab.gallery.recipe import NotAtHand, Options, Recipe
from gradlab.zoo import zoo_names

PAPER = "He et al. 2015, Deep Residual Learning for Image Recognition, arXiv:1512.03385"

FIG_7 = ("plain20", "plain56", "resnet20", "resnet56", "resnet110")
"""The networks of Fig. 7."""


def trained_networks() -> Options:
    """The networks of Fig. 7 that have weights here: bundled ones, else published ones already downloaded."""
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


RECIPES = (
    Recipe(
        name="he2015-table1",
        paper=PAPER,
        figure="Table 1, and the FLOPs of Fig. 3",
        title="Architectures for ImageNet and their multiply-adds",
        claim="ResNet-152 has 11.3 billion multiply-adds, fewer than VGG-16 and VGG-19; a plain and a residual net of "
        "equal depth cost the same.",
        command=("models",),
        experiment=architectures,
        options=lambda: {"pattern": "imagenet/*"},
        toy={"pattern": "imagenet/*18"},
        differs=("Projections of shortcuts are counted; the paper's plain and residual 34-layer nets have none.",),
        arguments=("pattern",),
    ),
    Recipe(
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
            "Measured on the 1,000 bundled test images; the paper does not say on which images it measured.",
            "The legend says whose weights were measured; the table gives their errors.",
        ),
    ),
)
