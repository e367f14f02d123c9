"""What benchmarks read: the seconds of a call, the memory of this process, and the quartiles of several readings."""

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
