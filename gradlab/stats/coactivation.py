"""How many neurons of a layer are active, and at how many pairs of inputs at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Activation(NamedTuple):
    """Fractions of one layer, all float64 of one shape (...).

    Attributes:
        activation: Inputs at which a neuron is active, averaged over neurons.
        coactivation: Pairs of distinct inputs at which it is active at both, averaged over neurons. Independent
            coin flips have 1/4, neurons that never switch 1/2 on average.
        always_on: Neurons active at every input.
        always_off: Neurons active at none.
    """

    activation: Tensor
    coactivation: Tensor
    always_on: Tensor
    always_off: Tensor


def activation_statistics(count: Tensor, inputs: int) -> Activation:
    """Activation and co-activation of a layer (Balduzzi et al. 2017, §3.2).

    With c of M inputs active, c(c − 1) of the M(M − 1) ordered pairs are active at both, so that no pair has to
    be formed.

    Args:
        count: (..., N), at how many of the inputs each neuron is active.
        inputs: M, at least 2.
    """
    count = count.double()
    return Activation(
        activation=count.mean(-1) / inputs,
        coactivation=(count * (count - 1)).mean(-1) / (inputs * (inputs - 1)),
        always_on=(count == inputs).double().mean(-1),
        always_off=(count == 0).double().mean(-1),
    )


def mean_activation(layers: list[Activation]) -> Activation:
    """The same fractions averaged over layers of equal width."""
    return Activation(*(torch.stack(values).mean(0) for values in zip(*layers, strict=True)))
