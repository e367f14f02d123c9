"""The rows of a training's table, epoch by epoch and at the end."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd


def by_epoch(frame: pd.DataFrame) -> pd.DataFrame:
    """The errors and losses of one network, with one row per epoch.

    Args:
        frame: The rows of the network in a training frame.

    Returns:
        A frame with the columns epoch (an integer except for the last), step, steps (the number of steps over which
        training errors and losses are averaged), and those of errors and losses that the frame has.
    """
    steps = frame["step"].diff().fillna(frame["step"])
    means = {name: frame[name] * steps for name in ("train_error", "train_loss") if name in frame}
    tests = [name for name in ("test_error", "test_loss") if name in frame]
    how: dict[str, Any] = {"epoch": "last", "step": "last", "steps": "sum"}
    how |= {**dict.fromkeys(means, _sum), **dict.fromkeys(tests, "last")}
    # An epoch ends at its whole number; rounding errors above it belong to the same epoch.
    groups = frame.assign(steps=steps, **means).groupby(np.ceil(frame["epoch"] - 1e-9), sort=True)
    epochs = groups[[*how]].agg(how)
    return epochs.assign(**{name: epochs[name] / epochs["steps"] for name in means}).reset_index(drop=True)


def _sum(values: pd.Series) -> float:
    """The sum; without one of the values there is none."""
    return float(values.sum(skipna=False))


def last_losses(epochs: pd.DataFrame) -> dict[str, float]:
    """The losses of the last epoch in nats, the lowest test loss, and the perplexity, exp of the last test loss.

    Args:
        epochs: The rows from `by_epoch`.
    """
    tests = epochs["test_loss"].dropna()
    last = float(tests.iloc[-1]) if len(tests) else math.nan
    # A diverged training may have losses of hundreds of nats.
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(last))
    return {
        "epochs": float(epochs["epoch"].iloc[-1]),
        "train loss": float(epochs["train_loss"].iloc[-1]),
        "test loss": last,
        "best loss": float(tests.min()),
        "perplexity": perplexity,
    }
