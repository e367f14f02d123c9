"""What the literature predicts for a network's gradients at initialization, layer by layer, where it says anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from gradlab.experiments.subjects import BatchNormMode, is_trained
from gradlab.models import Architecture, is_mlp, parse_mlp, parse_name
from gradlab.models.external import is_external
from gradlab.results.gradient_claims import CLAIMS, Claim
from gradlab.stats import (
    batch_norm_relu_growth,
    rectified_residual_gradient_moments,
    residual_gradient_moments,
    tap_coverage,
)


@dataclass(frozen=True)
class Prediction:
    """A claim of the literature, worked out for one network.

    Attributes:
        claim: Which.
        norms: By layer, up to one factor for all layers of one shape; layers that it says nothing of are left out.
    """

    claim: Claim
    norms: dict[str, float]


def predicted_gradients(
    model: nn.Module, bn: BatchNormMode, size: int, *, responses: bool = False
) -> Prediction | None:
    """The prediction for a network of ours as initialized, or None where no claim applies.

    Claims are on CIFAR networks with identity shortcuts, and on fully connected nets with batch normalization or
    without any normalization.

    Args:
        model: From `gl.build`.
        bn: Statistics of its batch normalization; as initialized the running ones are 0 and 1, which is none.
        size: Of its input images along a side.
        responses: Of the responses' gradients, not the weights': zero padding lets these fall without normalization.
    """
    network = getattr(model, "network", None)
    if network is None or is_trained(model) or is_external(network.name):
        return None
    if is_mlp(network.name):
        return _fully_connected(network.name, bn)
    architecture = parse_name(network.name)
    if architecture.imagenet or architecture.looks_linear or architecture.option not in (None, "A"):
        return None
    if bn == "eval":
        plain = architecture.family == "plain" and not responses
        return Prediction(CLAIMS["he"], dict.fromkeys(_convolutions(architecture), 1.0)) if plain else None
    return _convolutional(architecture, size)


def _convolutional(architecture: Architecture, size: int) -> Prediction:
    blocks = (architecture.depth - 2) // 6
    coverages = [tap_coverage(max(size // 2**stage, 1)) for stage in range(3)]
    growth = [batch_norm_relu_growth(coverage) for coverage in coverages for _ in range(blocks)]
    names = _convolutions(architecture)
    if architecture.family == "plain":
        steps = [factor for factor in growth for _ in range(2)]
        return Prediction(CLAIMS["batch norm"], _norms(names, _from_the_end(steps)))
    moments = rectified_residual_gradient_moments(blocks, coverages, architecture.beta).tolist()
    both = [value for g, moment in zip(growth, moments, strict=True) for value in (g * moment, moment)]
    return Prediction(CLAIMS["residual"], _norms(names, both))


def _fully_connected(name: str, bn: BatchNormMode) -> Prediction | None:
    architecture = parse_mlp(name)
    family = architecture.family.at(architecture.depth)
    norm = "none" if family.norm == "bn" and bn == "eval" else family.norm
    if family.kind == "resnet" and norm == "bn":
        moments = residual_gradient_moments(architecture.depth, family.beta).tolist()
        return Prediction(CLAIMS["residual"], _norms(_linears(architecture.depth), moments))
    if family.kind == "ff" and norm in ("bn", "none"):
        factor, claim = (batch_norm_relu_growth(), "batch norm") if norm == "bn" else (1.0, "he")
        names = _linears(architecture.depth - 1)
        return Prediction(CLAIMS[claim], _norms(names, _from_the_end([factor] * len(names))))
    return None


def _convolutions(architecture: Architecture) -> list[str]:
    blocks = (architecture.depth - 2) // 6
    return [f"layer{stage}.{block}.conv{k}" for stage in (1, 2, 3) for block in range(blocks) for k in (1, 2)]


def _linears(blocks: int) -> list[str]:
    return [f"body.{block}.linear" for block in range(blocks)]


def _from_the_end(factors: list[float]) -> list[float]:
    """Second moments of layers, 1 at the last; each layer's factor takes it to the one before."""
    moments = [1.0]
    for factor in reversed(factors[1:]):
        moments.append(moments[-1] * factor)
    return moments[::-1]


def _norms(names: list[str], moments: list[float]) -> dict[str, float]:
    return {name: math.sqrt(moment) for name, moment in zip(names, moments, strict=True)}
