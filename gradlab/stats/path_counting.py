"""Counts of the paths of a network that are active at two inputs at once.

This is the method of the proofs of Balduzzi et al. 2017, Theorems 1 to 3. The forward pass determines which neurons
are active; the weights of the backward pass are assumed independent of it, with mean 0, and averaged analytically.
E[g g'] then becomes a product over layers of weighted counts of co-active neurons. It resolves correlations down to
the smallest float64, whereas sampled gradients resolve them down to about 2⁻⁸.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coactive_fractions(active: Tensor) -> Tensor:
    """Compute the fraction of neurons that are active at both inputs of a pair.

    Args:
        active: Whether each neuron is active at the inputs i and j, as 0 or 1, shape (..., N, 2).

    Returns:
        The fractions for the pairs (i, i), (j, j) and (i, j), float64 of shape (..., 3).
    """
    first, second = active.double().unbind(-1)
    return torch.stack([first, second, first * second], -1).mean(-2)


def layer_slope(scale: Tensor) -> Tensor:
    """Compute the squared slope of a layer's normalization: the inverse of its neurons' mean variance.

    It must not be averaged over neurons separately from the weights: on a line of inputs a neuron that hardly varies
    has a large slope and a correspondingly small gradient, and 1/variance alone has no finite mean.

    Args:
        scale: The derivative of each neuron's normalization, shape (..., N, 1).

    Returns:
        A float64 tensor of shape (...).
    """
    return 1 / scale.squeeze(-1).double().pow(-2).mean(-1)


def log_path_counts(fractions: Tensor, slopes: Tensor, *, residual: float | None = None) -> Tensor:
    """Compute log sums over active paths through the first 1, 2, …, L layers, averaged over weights of variance 2/N.

    A layer multiplies the second moment of the gradients by 2s²c, where c is the fraction of co-active neurons and
    s² the squared slope of its normalization; a residual block multiplies it by 1 + 2β²s²c.

    Args:
        fractions: The `coactive_fractions` of each layer, shape (L, ..., 3).
        slopes: The squared slopes s², which are 1 without normalization, shape (L, ...).
        residual: The weight β of the residual branches; None for layers without shortcuts.

    Returns:
        A float64 tensor of shape (L, ..., 3), −∞ where no active path is left.
    """
    passed = 2 * slopes[..., None] * fractions
    factors = passed if residual is None else 1 + residual**2 * passed
    return factors.log().cumsum(0)


def path_correlation(log_paths: Tensor) -> Tensor:
    """Compute the correlation of gradients at a pair of inputs; see `log_path_correlation`."""
    return log_path_correlation(log_paths).exp()


def log_path_correlation(log_paths: Tensor) -> Tensor:
    """Compute the log correlation of gradients at a pair of inputs, from path counts averaged over networks.

    Args:
        log_paths: Log path counts of shape (S, ..., 3), one row per network.

    Returns:
        A float64 tensor of shape (...), NaN where one of the inputs has no active path in any network.
    """
    first, second, both = torch.logsumexp(log_paths, 0).unbind(-1)
    return both - (first + second) / 2
