"""Margins of error: how far the bars and bands of figures reach."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from gradlab.stats.verdict import Estimate


def margins(errors: Iterable[float], samples: Iterable[int]) -> np.ndarray[Any, Any]:
    """Return the half-widths of the 95 % intervals of means by Student's t, NaN where an error is unknown or 0.

    Args:
        errors: Standard errors of the means.
        samples: How many independent samples are behind each.
    """
    pairs = zip(errors, samples, strict=True)
    return np.array([Estimate.mean(0.0, float(error), int(count)).interval()[1] for error, count in pairs])


def interval_of(values: Any) -> tuple[float, float]:
    """Return the 95 % interval of the mean of samples by Student's t, as seaborn takes it for a band.

    Args:
        values: Independent samples; of fewer than two the interval is unknown, and NaN.
    """
    return Estimate.of(values).interval()
