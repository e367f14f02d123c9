"""Switches of rectifiers along a line of inputs, and the lengths of the runs in which they are active."""

from __future__ import annotations

import torch
from torch import Tensor


def switch_rate(active: Tensor) -> Tensor:
    """Compute the fraction of neighbouring inputs at which a neuron is active at one of the two, averaged over neurons.

    Args:
        active: Whether each neuron is active at each input in order, (…, N, M).

    Returns:
        float64 of shape (…).
    """
    return (active[..., 1:] != active[..., :-1]).double().mean((-2, -1))


def run_lengths(active: Tensor) -> Tensor:
    """Count the maximal runs of neighbouring inputs at which a neuron is active, by their length.

    Args:
        active: Whether each neuron is active at each input in order, (N, M).

    Returns:
        The mean number of runs of length 1, …, M for each neuron, float64 of shape (M,).
    """
    neurons, points = active.shape
    edges = torch.zeros(neurons, points + 2, dtype=torch.int8, device=active.device)
    edges[:, 1:-1] = active
    change = edges.diff(dim=1)
    # Starts and ends alternate in every row, so that both come in the same order.
    starts, ends = (change == 1).nonzero()[:, 1], (change == -1).nonzero()[:, 1]
    return torch.bincount(ends - starts, minlength=points + 1)[1:].double() / neurons
