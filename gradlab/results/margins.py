"""Margins of error: the sizes of bars and bands in figures."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gradlab.stats.verdict import Estimate


def margins(errors: Iterable[float], samples: Iterable[int]) -> np.ndarray[Any, Any]:
    """Return the half-widths of the 95 % intervals of means by Student's t; NaN if an error is unknown or 0.

    Args:
        errors: The standard errors of the means.
        samples: The number of independent samples of each mean.
    """
    pairs = zip(errors, samples, strict=True)
    return np.array([Estimate.mean(0.0, float(error), int(count)).interval()[1] for error, count in pairs])


def interval_of(values: Any) -> tuple[float, float]:
    """Return the 95 % interval of the mean of samples by Student's t, in the form of seaborn's bands.

    Args:
        values: Independent samples; with fewer than two of them the interval is NaN.
    """
    return Estimate.of(values).interval()
