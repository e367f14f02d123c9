"""Counting the paths of a network that are active at two inputs at once.

The device of the paper's proofs (Balduzzi et al. 2017, Theorems 1 to 3): the forward pass fixes which neurons
are active; the weights of the backward pass are taken to be independent of it, of mean 0, and averaged
analytically. What is left of E[g g'] is a product over layers of weighted counts of co-active neurons. It
measures correlations down to the least float64, where sampling gradients ends near 2⁻⁸.
"""

from __future__ import annotations

import torch
from torch import Tensor


def coactive_fractions(active: Tensor) -> Tensor:
    """Fraction of neurons active at both inputs of a pair.

    Args:
        active: (..., N, 2), of 0 and 1: at the inputs i and j.

    Returns:
        (..., 3), float64: at (i, i), (j, j) and (i, j).
    """
    first, second = active.double().unbind(-1)
    return torch.stack([first, second, first * second], -1).mean(-2)


def layer_slope(scale: Tensor) -> Tensor:
    """Squared slope of a normalization, one for the layer: the inverse of its neurons' mean variance.

    Neuron by neuron it must not be averaged apart from the weights: on a line of inputs a neuron that hardly
    varies has a large slope and a gradient as small, and 1/variance alone has no finite mean.

    Args:
        scale: Derivative of each neuron's normalization, (..., N, 1).

    Returns:
        (...), float64.
    """
    return 1 / scale.squeeze(-1).double().pow(-2).mean(-1)


def log_path_counts(fractions: Tensor, slopes: Tensor, *, residual: float | None = None) -> Tensor:
    """Logarithm of the sums over active paths through the first 1, 2, …, L layers, weights of variance 2/N averaged.

    A layer multiplies the second moment of the gradients by 2s²c, with c the fraction of co-active neurons and
    s² the squared slope of its normalization; a residual block by 1 + 2β²s²c.

    Args:
        fractions: (L, ..., 3), as `coactive_fractions` gives them, layer by layer.
        slopes: (L, ...), s²: 1 without normalization.
        residual: β of the residual blocks; None for layers without shortcuts.

    Returns:
        (L, ..., 3), float64; −∞ where no path is left.
    """
    passed = 2 * slopes[..., None] * fractions
    factors = passed if residual is None else 1 + residual**2 * passed
    return factors.log().cumsum(0)


def path_correlation(log_paths: Tensor) -> Tensor:
    """Correlation of gradients at the pair, from path counts averaged over networks; see its logarithm."""
    return log_path_correlation(log_paths).exp()


def log_path_correlation(log_paths: Tensor) -> Tensor:
    """Logarithm of the correlation of gradients at the pair.

    Args:
        log_paths: (S, ..., 3), a row a network.

    Returns:
        (...), float64; NaN where one of the inputs has no active path in any network.
    """
    first, second, both = torch.logsumexp(log_paths, 0).unbind(-1)
    return both - (first + second) / 2
