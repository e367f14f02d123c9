"""What benchmarks read: seconds of calls, ratios of them, the memory of this process, and quartiles of readings."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""The clocks by the names that `--clock` takes; the second counts the process's own seconds."""


def seconds(function: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """The time of one call, the device's work included."""
    synchronize()
    start = clock()
    function()
    synchronize()
    return clock() - start


def ratio(
    run: Callable[[], object], bare: Callable[[], object], clock: Callable[[], float] = time.process_time
) -> float:
    """The time of a call over the mean of those of a bare one before and after it: a drift of the speed cancels."""
    before, inner, after = (seconds(each, clock) for each in (bare, run, bare))
    return 2 * inner / (before + after)


def synchronize() -> None:
    """Wait for the device, if one is in use."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def resident() -> float:
    """Resident memory of this process in MiB; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
    except OSError:
        return 0.0


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The lower quartile, the median and the upper quartile, all of them the value of a single reading."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3
    return low, median, high


def spread(values: Sequence[float], digits: int = 3) -> str:
    """The median of several readings, and the quartiles in parentheses."""
    low, median, high = (f"{value:.{digits}f}" for value in quartiles(values))
    return f"{median:>6}   ({low} to {high})"
