"""Learning rates along a training, as fractions of the largest."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import Literal, get_args

Schedule = Literal["steps", "one-cycle", "cosine", "constant"]
"""`steps` divides the rate by 10 after half and after three quarters of the training (He et al. 2015, §4.2: after 32k
and 48k of 64k iterations); `one-cycle` raises it linearly over the first quarter and then lowers it linearly to 0
(Smith and Topin 2017, arXiv:1708.07120); `cosine` lowers it to 0 along half a cosine (Loshchilov and Hutter 2016,
arXiv:1608.03983, Eq. 5, without restarts)."""

SCHEDULES = get_args(Schedule)


def rate_fraction(schedule: Schedule, step: int, steps: int, warm_up: int = 0) -> float:
    """Return the learning rate of one step as a fraction of the largest.

    Args:
        schedule: The course after the warm-up.
        step: The number of the step, from 0.
        steps: The number of steps of the whole training.
        warm_up: The number of steps over which the rate rises linearly: that of step k, from 0, is multiplied by
            (k + 1) / warm_up. A cosine begins after them; the drops of `steps` stay where they are.
    """
    return min(1.0, (step + 1) / warm_up if warm_up else 1.0) * _course(schedule, step, steps, warm_up)


def _course(schedule: Schedule, step: int, steps: int, warm_up: int) -> float:
    """The fraction without the rise of the warm-up."""
    if schedule == "steps":
        return float(0.1 ** bisect_right((steps // 2, steps * 3 // 4), step))
    if schedule == "one-cycle":
        place, peak = (step + 0.5) / steps, 0.25
        return place / peak if place < peak else (1 - place) / (1 - peak)
    if schedule == "cosine":
        return (1 + math.cos(math.pi * max(0, step - warm_up) / (steps - warm_up))) / 2
    return 1.0
