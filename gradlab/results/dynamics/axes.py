"""Axes of figures of dynamics: steps, layers by name with the ends of blocks, and titles of statistics."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

LABELS = {
    "grad_norm": "gradient norm",
    "response_std": "std of response",
    "relative": "gradient / weight norm",
    "response_mean": "mean of response",
    "response_max": "largest |response|",
    "non_finite_fraction": "not finite",
    "zero_fraction": "share of zeros",
    "dead_units": "share of dead units",
    "saturated_fraction": "share of saturated",
    "response_grad_rms": "RMS of ∂loss/∂response",
    "grad_rms": "RMS of gradient",
    "weight_norm": "weight norm",
    "update_norm": "update norm",
    "update_ratio": "update / weight norm",
    "update_cosine": "cos(update, −gradient)",
    "angular_update": "angle of update",
    "cancelled_fraction": "share of cancelled updates",
}
"""What a statistic is called beside an axis."""

SIGNED = {"response_mean", "update_cosine"}

MOST_NAMES = 20
"""Up to so many layers all have their names beside a map; of more, every second, fifth, tenth … has."""

MOST_BLOCKS = 40
"""Up to so many blocks have lines between them."""

_SPACINGS = [spacing * 10**power for power in range(6) for spacing in (1, 2, 5)]
_FEWER_NAMES = 12
_LONGEST_NAME = 20
_NAME_SIZE = 5.0


def label_of(statistic: str) -> str:
    """The title of a statistic beside an axis; one without a title of its own is called by its name."""
    return LABELS.get(statistic, statistic.replace("_", " "))


def step_axis(ax: Axes, steps: np.ndarray[Any, Any]) -> None:
    """Scale an axis of steps: logarithmic, and linear below step 1, if the steps lie ever farther apart; else linear.

    Args:
        ax: The axes.
        steps: The recorded steps in ascending order.
    """
    if len(steps) > 2 and steps[-1] - steps[-2] > 3 * (steps[1] - steps[0]):
        ax.set_xscale("symlog", linthresh=1, linscale=0.3)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def named_layers(count: int) -> list[int]:
    """The places, from 1, of the layers that have their names beside an axis: all if they are few, else every n-th.

    Args:
        count: The number of layers.
    """
    if count <= MOST_NAMES:
        return list(range(1, count + 1))
    spacing = next(s for s in _SPACINGS if count <= s * _FEWER_NAMES)
    return [1, *(place for place in range(spacing, count + 1, spacing) if place > spacing / 2)]


def layer_axis(ax: Axes, layers: Sequence[str], blocks: Sequence[str]) -> None:
    """Name the layers beside a map, and draw lines where blocks end.

    Args:
        ax: The axes, whose y axis counts layers from 1.
        layers: Their names in the order of execution.
        blocks: The block of each, empty if it is in none.
    """
    places = named_layers(len(layers))
    ax.set_yticks(places, labels=[_shortened(layers[place - 1]) for place in places], fontsize=_NAME_SIZE)
    ends = [place for place, (block, after) in enumerate(pairwise(blocks), 1) if block != after]
    if 0 < len(ends) <= MOST_BLOCKS:
        ax.hlines(np.array(ends) + 0.5, *ax.get_xlim(), colors="white", linewidths=0.3)


def height_of(count: int) -> float:
    """The height of a map in inches at which the names of its layers do not touch.

    Args:
        count: The number of layers.
    """
    return max(1.45, 0.35 + 1.2 * _NAME_SIZE / 72 * len(named_layers(count)))


def _shortened(name: str) -> str:
    """A name that keeps its end, which distinguishes it from others."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"
