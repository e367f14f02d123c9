"""Gradient norms across depth with their mean-field rates (Yang et al. 2019; De and Smith 2020)."""

from __future__ import annotations

from gradlab.experiments.gradients.gradients import gradients
from gradlab.gallery.figure import Figure

FIGURES = (
    Figure(
        name="gradients-across-depth",
        paper="Yang et al. 2019, A Mean Field Theory of Batch Normalization, arXiv:1902.08129; De and Smith 2020, "
        "Batch Normalization Biases Residual Blocks Towards the Identity Function, arXiv:2002.10444",
        figure="their rates of growth",
        title="Gradient norms across depth, at initialization",
        claim="With batch normalization the second moment of the gradient grows by π/(π − 1) = 1.467 per layer "
        "towards the input in plain nets, so that it explodes with depth; in residual nets it grows as a power of "
        "depth.",
        command=("gradients",),
        experiment=gradients,
        options=lambda: {"models": ("plain20", "plain56", "resnet20", "resnet56"), "weights": "init"},
        toy={"models": ("plain8@init", "resnet8@init"), "images": 8, "batch_size": 8, "seeds": 1},
        differs=(
            "The papers state rates for infinite width; these are the nets of He et al. 2015, 16 to 64 channels wide, "
            "on 128 images of CIFAR-10, five seeds.",
        ),
    ),
)
