"""Standard errors of means, and by the jackknife of other statistics."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def standard_error(samples: Tensor) -> Tensor:
    """Compute the standard error of the mean over dimension 0 (divisor n − 1), NaN for one sample."""
    count = samples.shape[0]
    if count < 2:
        return torch.full_like(samples[0], torch.nan)
    return samples.std(0, correction=1) / math.sqrt(count)


def jackknife(statistic: Callable[[Tensor], Tensor], samples: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a statistic of all samples, and its standard error by the jackknife.

    See Efron and Stein 1981, "The jackknife estimate of variance".

    Args:
        statistic: A function from samples of shape (n, ...) to a value of any shape.
        samples: The samples, shape (S, ...).

    Returns:
        The value and its standard error, which is NaN for one sample.
    """
    value = statistic(samples)
    count = samples.shape[0]
    if count < 2:
        return value, torch.full_like(value, torch.nan)
    left_out = torch.stack([statistic(torch.cat([samples[:i], samples[i + 1 :]])) for i in range(count)])
    variance = (count - 1) / count * (left_out - left_out.mean(0)).square().sum(0)
    return value, variance.sqrt()
