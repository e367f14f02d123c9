"""How much the gradients of single examples differ: variance, noise scale, diversity, mean cosine.

All are functions of the norms of the example gradients g_1 … g_B, of their mean ḡ, and of the sum of their
directions, so that no gradient has to be kept. Float32 has the norms, but not their squares, so all is in float64.
"""

import torch
from torch import Tensor

from gradlab.stats.precision import widened


def gradient_variance(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """tr(Σ), the trace of the covariance of the example gradients, unbiased: Σ‖g_i − ḡ‖² / (B − 1).

    Args:
        norms: ‖g_i‖, of shape (…, B).
        mean_norm: ‖ḡ‖, of shape (…).

    Returns:
        Float64 of shape (…); NaN for a single example.
    """
    norms, mean_norm = widened(norms), widened(mean_norm)
    examples = norms.shape[-1]
    if examples == 1:
        return torch.full_like(mean_norm, torch.nan)
    deviations = norms.square().sum(-1) - examples * mean_norm.square()
    # The difference of two nearly equal sums may fall below 0 by rounding.
    return deviations.clamp(min=0) / (examples - 1)


def true_gradient_square(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """|G|², the squared norm of the gradient over all data, unbiased: ‖ḡ‖² − tr(Σ) / B.

    McCandlish et al. 2018 (arXiv:1812.06162), App. A.1, with batches of 1 and of B examples. Noise may make it
    negative.

    Args:
        norms: ‖g_i‖, of shape (…, B).
        mean_norm: ‖ḡ‖, of shape (…).

    Returns:
        Float64 of shape (…).
    """
    return widened(mean_norm).square() - gradient_variance(norms, mean_norm) / norms.shape[-1]


def simple_noise_scale(variance: Tensor, gradient_square: Tensor) -> Tensor:
    """B_simple = tr(Σ) / |G|²: the batch size at which noise and gradient are equally large.

    McCandlish et al. 2018 (arXiv:1812.06162), Eq. 2.9. Each of the two is unbiased, their ratio is not: average both
    over batches first (App. A.1).

    Args:
        variance: tr(Σ), as of `gradient_variance`.
        gradient_square: |G|², as of `true_gradient_square`.

    Returns:
        Of the same shape; NaN where |G|² is not positive: the batch is too small to tell it from 0.
    """
    return (variance / gradient_square).where(gradient_square > 0, float("nan"))


def gradient_diversity(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """Σ‖g_i‖² / ‖Σ g_i‖² (Yin et al. 2018, arXiv:1706.05699).

    1/B for equal gradients, 1 for orthogonal ones, infinite where they cancel.

    Args:
        norms: ‖g_i‖, of shape (…, B).
        mean_norm: ‖ḡ‖, of shape (…).

    Returns:
        Float64 of shape (…).
    """
    sum_norm = norms.shape[-1] * widened(mean_norm)
    # Their quotient, and not one of squares, which even float64 may not hold.
    return (widened(norms) / sum_norm[..., None]).square().sum(-1)


def mean_cosine(norms: Tensor, direction_norm: Tensor) -> Tensor:
    """Mean cosine of the angle between the gradients of two different examples.

    (‖Σ g_i/‖g_i‖‖² − n) / (n (n − 1)), over the n examples whose gradient is not 0.

    Args:
        norms: ‖g_i‖, of shape (…, B).
        direction_norm: ‖Σ g_i/‖g_i‖‖ over those that are not 0, of shape (…).

    Returns:
        Float64 of shape (…); NaN where fewer than two are not 0.
    """
    n = (widened(norms) > 0).sum(-1).double()
    pairs = n * (n - 1)
    return ((widened(direction_norm).square() - n) / pairs).where(pairs > 0, float("nan"))
