"""Mean squared singular values of a jacobian frame."""

from __future__ import annotations

import pandas as pd


def mean_squares(frame: pd.DataFrame) -> tuple[float, float]:
    """Return the mean squared singular value of one network, and its standard error over seeds and examples.

    Args:
        frame: The rows of the network.
    """
    squares = frame["singular_value"] ** 2 * frame["weight"]
    probes = squares.groupby([frame["seed"].fillna(0), frame["example"], frame["probe"]]).sum()
    seeds = probes.groupby(level=0).mean()
    # Examples measured with the same weights are alike, so that seeds are the samples if there are several.
    samples = seeds if len(seeds) > 1 else probes.groupby(level=[0, 1]).mean()
    return float(samples.mean()), float(samples.std() / len(samples) ** 0.5)
