"""Activation and co-activation of a layer's neurons: at how many inputs, and pairs of inputs, they are active."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """Fractions for one layer, as float64 tensors of one shape (...).

    Attributes:
        activation: The fraction of inputs at which a neuron is active, averaged over neurons.
        coactivation: The fraction of pairs of distinct inputs at both of which a neuron is active, averaged over
            neurons. It is 1/4 for independent coin flips, and 1/2 on average for neurons that never switch.
        always_on: The fraction of neurons that are active at every input.
        always_off: The fraction of neurons that are active at no input.
    """

    activation: Tensor
    coactivation: Tensor
    always_on: Tensor
    always_off: Tensor


def activation_statistics(count: Tensor, inputs: int) -> Activation:
    """Compute the activation and co-activation of a layer (Balduzzi et al. 2017, §3.2).

    A neuron that is active at c of M inputs is active at both inputs of c(c − 1) of the M(M − 1) ordered pairs, so
    no pair has to be formed.

    Args:
        count: The number of inputs at which each neuron is active, shape (..., N).
        inputs: The number of inputs M, at least 2.
    """
    count = count.double()
    return Activation(
        activation=count.mean(-1) / inputs,
        coactivation=(count * (count - 1)).mean(-1) / (inputs * (inputs - 1)),
        always_on=(count == inputs).double().mean(-1),
        always_off=(count == 0).double().mean(-1),
    )


def mean_activation(layers: list[Activation]) -> Activation:
    """Average the fractions over layers of equal width."""
    return Activation(*(torch.stack(values).mean(0) for values in zip(*layers, strict=True)))
