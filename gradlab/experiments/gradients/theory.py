"""Predictions of the literature for a network's gradients at initialization, layer by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from gradlab.experiments.request import BatchNormMode
from gradlab.experiments.subject import is_trained
from gradlab.facts import network_of
from gradlab.models import Architecture, is_mlp, parse_mlp, parse_name
from gradlab.models.external import is_external
from gradlab.results.gradients.findings import CLAIMS, Claim
from gradlab.theory import (
    batch_norm_relu_growth,
    he_growth,
    rectified_residual_gradient_moments,
    tap_coverage,
    taps_inside,
)


@dataclass(frozen=True)
class Prediction:
    """A claim of the literature, evaluated for one network.

    Attributes:
        claim: The key of the claim.
        norms: The norms by layer, up to a common factor for all layers of one shape, without layers that it omits.
    """

    claim: Claim
    norms: dict[str, float]


def predicted_gradients(
    model: nn.Module, bn: BatchNormMode, size: int, *, responses: bool, summed: bool
) -> Prediction | None:
    """The prediction for a network of gradlab at initialization, or None if no claim applies.

    There are claims for CIFAR networks with identity shortcuts, and for fully connected nets without shortcuts. Claims
    for nets without normalization are about responses. Claims for residual nets do not apply to a sum of outputs, whose
    gradient is equal for all images, so that shortcuts pass on a component that normalization would remove.

    Args:
        model: A network from `gl.build`.
        bn: The statistics for batch normalization; at initialization the running ones are 0 and 1 and have no effect.
        size: The height and width of its input images.
        responses: Whether the gradients are those of responses instead of weights.
        summed: Whether the loss is the sum of the outputs.
    """
    network = network_of(model)
    if network is None or is_trained(model) or is_external(network.name):
        return None
    if is_mlp(network.name):
        return _fully_connected(network.name, bn, responses)
    architecture = parse_name(network.name)
    if not isinstance(architecture, Architecture) or not architecture.is_of_2015 or size < 4:
        return None
    if architecture.family == "plain":
        return _plain(architecture, size, bn) if responses or bn == "batch" else None
    return None if summed or bn == "eval" else _residual(architecture, size)


def _plain(architecture: Architecture, size: int, bn: BatchNormMode) -> Prediction:
    steps = []
    for stage in range(3):
        inside = float(taps_inside(size // 2**stage).mean())
        factor = batch_norm_relu_growth(tap_coverage(size // 2**stage)) if bn == "batch" else he_growth(inside, 2.0)
        steps += [factor] * (2 * _blocks(architecture))
    claim = CLAIMS["batch norm" if bn == "batch" else "he"]
    return Prediction(claim, _norms(_convolutions(architecture), _from_the_end(steps)))


def _residual(architecture: Architecture, size: int) -> Prediction:
    blocks = _blocks(architecture)
    coverages = [tap_coverage(size // 2**stage) for stage in range(3)]
    outputs = rectified_residual_gradient_moments(blocks, coverages, architecture.beta).tolist()
    moments = []
    for block, output in enumerate(outputs):
        # The first layer of the branch precedes the second by one batch normalization and one ReLU.
        moments += [batch_norm_relu_growth(coverages[block // blocks]) * output, output]
    return Prediction(CLAIMS["residual"], _norms(_convolutions(architecture), moments))


def _fully_connected(name: str, bn: BatchNormMode, responses: bool) -> Prediction | None:
    architecture = parse_mlp(name)
    family = architecture.family.at(architecture.depth)
    names = [f"body.{block}.linear" for block in range(architecture.depth - 1)]
    if family.kind != "ff" or family.norm not in ("bn", "none"):
        return None
    if family.norm == "bn" and bn == "batch":
        return Prediction(CLAIMS["batch norm"], _norms(names, _from_the_end([batch_norm_relu_growth()] * len(names))))
    return Prediction(CLAIMS["he"], dict.fromkeys(names, 1.0)) if responses else None


def _blocks(architecture: Architecture) -> int:
    return (architecture.depth - 2) // 6


def _convolutions(architecture: Architecture) -> list[str]:
    blocks = range(_blocks(architecture))
    return [f"layer{stage}.{block}.conv{k}" for stage in (1, 2, 3) for block in blocks for k in (1, 2)]


def _from_the_end(factors: list[float]) -> list[float]:
    """The second moments of layers, normalized to 1 at the last; each layer's factor leads to the layer before."""
    moments = [1.0]
    for factor in reversed(factors[1:]):
        moments.append(moments[-1] * factor)
    return moments[::-1]


def _norms(names: list[str], moments: list[float]) -> dict[str, float]:
    return {name: math.sqrt(moment) for name, moment in zip(names, moments, strict=True)}
