"""Standard errors of statistics that are no plain mean."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def standard_error(samples: Tensor) -> Tensor:
    """Standard error of the mean over dimension 0, divisor n − 1; NaN for one sample."""
    count = samples.shape[0]
    if count < 2:
        return torch.full_like(samples[0], torch.nan)
    return samples.std(0, correction=1) / math.sqrt(count)


def jackknife(statistic: Callable[[Tensor], Tensor], samples: Tensor) -> tuple[Tensor, Tensor]:
    """A statistic of all samples with its standard error (Efron and Stein 1981, "The jackknife estimate of variance").

    Args:
        statistic: From samples (n, ...) to a value of any shape.
        samples: (S, ...).

    Returns:
        The value, and its standard error: NaN for one sample.
    """
    value = statistic(samples)
    count = samples.shape[0]
    if count < 2:
        return value, torch.full_like(value, torch.nan)
    left_out = torch.stack([statistic(torch.cat([samples[:i], samples[i + 1 :]])) for i in range(count)])
    variance = (count - 1) / count * (left_out - left_out.mean(0)).square().sum(0)
    return value, variance.sqrt()
