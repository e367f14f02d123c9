"""Measures of how much the gradients of single examples differ: variance, noise scale, diversity, mean cosine.

All are functions of the norms of the example gradients g_1 … g_B, of their mean ḡ and of the sum of their
directions, so no gradient has to be stored. Squared norms may leave the range of float32, so float64 is used.
"""

import torch
from torch import Tensor

from gradlab.stats.precision import widened


def gradient_variance(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """Estimate tr(Σ), the trace of the covariance of the example gradients, without bias: Σ‖g_i − ḡ‖² / (B − 1).

    Args:
        norms: The norms ‖g_i‖, shape (…, B).
        mean_norm: The norm ‖ḡ‖ of the mean gradient, shape (…).

    Returns:
        A float64 tensor of shape (…), NaN for a single example.
    """
    norms, mean_norm = widened(norms), widened(mean_norm)
    examples = norms.shape[-1]
    if examples == 1:
        return torch.full_like(mean_norm, torch.nan)
    deviations = norms.square().sum(-1) - examples * mean_norm.square()
    # The difference of two nearly equal sums may fall below 0 by rounding.
    return deviations.clamp(min=0) / (examples - 1)


def true_gradient_square(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """Estimate |G|², the squared norm of the gradient over all data, without bias: ‖ḡ‖² − tr(Σ) / B.

    This is App. A.1 of McCandlish et al. 2018 (arXiv:1812.06162) with batches of 1 and of B examples. Noise may make
    it negative.

    Args:
        norms: The norms ‖g_i‖, shape (…, B).
        mean_norm: The norm ‖ḡ‖ of the mean gradient, shape (…).

    Returns:
        A float64 tensor of shape (…).
    """
    return widened(mean_norm).square() - gradient_variance(norms, mean_norm) / norms.shape[-1]


def noise_of_two_batches(small_norm: Tensor, large_norm: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Estimate tr(Σ) and |G|² without bias, from the gradients of a small and of a large batch.

    These are the estimates of McCandlish et al. 2018 (arXiv:1812.06162), App. A.1, where Σ is the covariance of the
    small batch's gradient: that of an example is its number of examples times as large. The small batch may be part
    of the large one. Noise may make either of them negative.

    Args:
        small_norm: The norm of the mean gradient of the small batch, shape (…).
        large_norm: That of the large batch, shape (…).
        share: The examples of the small batch over those of the large one, below 1.

    Returns:
        tr(Σ) and |G|², float64 tensors of shape (…).
    """
    small, large = widened(small_norm).square(), widened(large_norm).square()
    return (small - large) / (1 - share), (large - share * small) / (1 - share)


def simple_noise_scale(variance: Tensor, gradient_square: Tensor) -> Tensor:
    """Compute B_simple = tr(Σ) / |G|², the batch size at which noise and gradient are equally large.

    This is Eq. 2.9 of McCandlish et al. 2018 (arXiv:1812.06162). Both estimates are unbiased but their ratio is not:
    average each over batches first (App. A.1).

    Args:
        variance: The estimate of tr(Σ) from `gradient_variance`.
        gradient_square: The estimate of |G|² from `true_gradient_square`.

    Returns:
        A tensor of the same shape, NaN where |G|² is not positive because the batch is too small to resolve it.
    """
    return (variance / gradient_square).where(gradient_square > 0, float("nan"))


def gradient_diversity(norms: Tensor, mean_norm: Tensor) -> Tensor:
    """Compute the gradient diversity Σ‖g_i‖² / ‖Σ g_i‖² (Yin et al. 2018, arXiv:1706.05699).

    It is 1/B for equal gradients, 1 for orthogonal ones, and infinite where they cancel.

    Args:
        norms: The norms ‖g_i‖, shape (…, B).
        mean_norm: The norm ‖ḡ‖ of the mean gradient, shape (…).

    Returns:
        A float64 tensor of shape (…).
    """
    sum_norm = norms.shape[-1] * widened(mean_norm)
    # Norms are divided before they are squared, since squares may leave the range of even float64.
    return (widened(norms) / sum_norm[..., None]).square().sum(-1)


def mean_cosine(norms: Tensor, direction_norm: Tensor) -> Tensor:
    """Compute the mean cosine of the angle between the gradients of two different examples.

    It is (‖Σ g_i/‖g_i‖‖² − n) / (n (n − 1)) over the n examples whose gradient is not 0.

    Args:
        norms: The norms ‖g_i‖, shape (…, B).
        direction_norm: The norm ‖Σ g_i/‖g_i‖‖ over the nonzero gradients, shape (…).

    Returns:
        A float64 tensor of shape (…), NaN where fewer than two gradients are nonzero.
    """
    n = (widened(norms) > 0).sum(-1).double()
    pairs = n * (n - 1)
    return ((widened(direction_norm).square() - n) / pairs).where(pairs > 0, float("nan"))
