"""How much the gradients of single examples differ: variance, noise scale, diversity, mean cosine.

All are functions of the norms of the example gradients g_1 … g_B, of their mean ḡ, and of the sum of their
directions, so that no gradient has to be kept.
"""

import torch
from torch import Tensor


def gradient_variance(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """tr(Σ), the trace of the covariance of the example gradients, unbiased: Σ‖g_i − ḡ‖² / (B − 1).

    Args:
        norms: ‖g_i‖, float64 of shape (…, B).
        mean_norm: ‖ḡ‖, float64 of shape (…).

    Returns:
        Shape (…); NaN for a single example.
    """
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
        norms: ‖g_i‖, float64 of shape (…, B).
        mean_norm: ‖ḡ‖, float64 of shape (…).

    Returns:
        Shape (…).
    """
    return mean_norm.square() - gradient_variance(norms, mean_norm) / norms.shape[-1]


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
        norms: ‖g_i‖, float64 of shape (…, B).
        mean_norm: ‖ḡ‖, float64 of shape (…).

    Returns:
        Shape (…).
    """
    return norms.square().sum(-1) / (norms.shape[-1] * mean_norm).square()


def mean_cosine(norms: Tensor, direction_norm: Tensor) -> Tensor:
    """Mean cosine of the angle between the gradients of two different examples.

    (‖Σ g_i/‖g_i‖‖² − n) / (n (n − 1)), over the n examples whose gradient is not 0.

    Args:
        norms: ‖g_i‖, float64 of shape (…, B).
        direction_norm: ‖Σ g_i/‖g_i‖‖ over those that are not 0, float64 of shape (…).

    Returns:
        Shape (…); NaN where fewer than two are not 0.
    """
    n = (norms > 0).sum(-1).to(norms.dtype)
    pairs = n * (n - 1)
    return ((direction_norm.square() - n) / pairs).where(pairs > 0, float("nan"))
