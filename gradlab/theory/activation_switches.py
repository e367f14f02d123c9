"""How often rectifiers switch along a line of inputs, in networks of infinite width and for independent coin flips."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradlab.theory.arc_cosine import kappa1


def switch_rates(
    x: Tensor,
    layers: int,
    *,
    centred: bool = False,
    residual: tuple[float, float] | None = None,
    bias: bool = True,
) -> Tensor:
    """Compute the fraction of neighbouring inputs at which a neuron switches, by layer, at infinite width.

    Pre-activations are jointly Gaussian with mean 0, so that a neuron has different signs at two inputs with the
    probability arccos(ρ)/π, where ρ is their correlation (Sheppard 1899). It follows from the arc-cosine kernel.
    With batch normalization on a line there is no such limit.

    Args:
        x: The inputs, (M,), in order.
        layers: The number of layers.
        centred: Whether the mean of every neuron over the inputs is subtracted before each ReLU. In nets without
            shortcuts, none is before the first.
        residual: The weights of shortcut and branch of a residual net; None for a net without shortcuts.
        bias: Whether the first layer has a bias, with the variance of its weights.

    Returns:
        float64 of shape (layers,).
    """
    x = x.double()
    state = x[:, None] * x[None, :] + float(bias)
    rates = []
    for layer in range(layers):
        seen = state
        if centred and (layer or residual is not None):
            seen = seen - seen.mean(0, keepdim=True)
            seen = seen - seen.mean(1, keepdim=True)
        std = seen.diagonal().clamp(min=0).sqrt()
        product = (std[:, None] * std[None, :]).clamp(min=torch.finfo(torch.float64).tiny)
        rho = (seen / product).clamp(-1, 1)
        rho.fill_diagonal_(1.0)
        rates.append(torch.arccos(rho.diagonal(1)).mean() / math.pi)
        made = product * kappa1(rho)
        state = made if residual is None else residual[0] ** 2 * state + residual[1] ** 2 * made
        state = state / state.diagonal().mean()
    return torch.stack(rates)


def coin_flip_runs(points: int) -> Tensor:
    """Compute the expected number of maximal runs of each length, in a row of independent fair coin flips.

    Args:
        points: The number M of flips.

    Returns:
        The numbers of runs of heads of length 1, …, M, float64 of shape (M,).
    """
    length = torch.arange(1, points + 1, dtype=torch.float64)
    # A run that ends at neither end of the row has two tails beside it, one at an end has one.
    inside = (points - length - 1).clamp(min=0) * torch.exp2(-length - 2)
    runs = inside + 2 * torch.exp2(-length - 1)
    runs[-1] = 2.0**-points
    return runs


def first_layer_runs(x: Tensor) -> Tensor:
    """Compute the expected number of runs of activity of each length for a neuron relu(vx + b) of the first layer.

    With v and b of one normal distribution the neuron switches once, at −b/v, which has the Cauchy distribution: it is
    active at all inputs on one side.

    Args:
        x: The inputs, (M,), in order.

    Returns:
        The numbers of runs of length 1, …, M, float64 of shape (M,).
    """
    below = torch.atan(x.double()) / math.pi + 0.5
    # Runs of length r start at the last input or end at the first one.
    between = below.diff()
    outside = below[0] + 1 - below[-1]
    runs = torch.empty(len(x), dtype=torch.float64)
    runs[:-1] = (between + between.flip(0)) / 2
    runs[-1] = outside / 2
    return runs
