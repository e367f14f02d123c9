"""The record of a result: enough information to reproduce it, and to know what may differ."""

from __future__ import annotations

import datetime
import json
import math
import platform
import shlex
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


class Stopwatch:
    """Wall time and UTC time since construction."""

    def __init__(self) -> None:
        self.utc = datetime.datetime.now(datetime.UTC)
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """The time since construction in seconds."""
        return time.perf_counter() - self._start


def make_record(
    measurement: str, *, options: Mapping[str, Any], device: str, stopwatch: Stopwatch, **facts: Any
) -> dict[str, Any]:
    """The record of one measurement.

    Args:
        measurement: The name of the measurement, such as `responses` or `gradients`.
        options: The value of every option.
        device: The device of the computation, in words.
        stopwatch: A stopwatch that was started when the work began.
        **facts: Other facts: networks with digests, data, image count, seeds.
    """
    return {
        "measurement": measurement,
        "command": _command_line(),
        "options": dict(options),
        **facts,
        "versions": versions(),
        "device": device,
        "wall_seconds": round(stopwatch.seconds, 3),
        "peak_memory_mib": _peak_memory_mib(),
        "utc": stopwatch.utc.isoformat(timespec="seconds"),
    }


def json_text(content: Mapping[str, Any]) -> str:
    """A record as JSON, in which values that JSON does not have become null or text."""
    return json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def versions() -> dict[str, str | None]:
    """The versions of gradlab, torch, torchvision, CUDA and Python, and the platform."""
    torch: Any = sys.modules.get("torch")
    return {
        "gradlab": _version("gradlab-torch"),
        "torch": _version("torch"),
        "torchvision": _version("torchvision"),
        "cuda": None if torch is None else torch.version.cuda,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _command_line() -> str | None:
    """The command as typed; None in a notebook or another program."""
    if Path(sys.argv[0]).stem != "gradlab":
        return None
    return shlex.join(["gradlab", *sys.argv[1:]])


def _peak_memory_mib() -> float | None:
    """The peak memory: the largest of a CUDA device if one was used, or else that of the process, if it is known."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        peaks = [torch.cuda.max_memory_allocated(device) for device in range(torch.cuda.device_count())]
        return round(float(max(peaks)) / 2**20, 1)
    try:
        import resource
    except ModuleNotFoundError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_text(str(k)): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int) else _text(str(value))


def _text(text: str) -> str:
    """The text in UTF-8, in which names of files that are none are shown as escapes."""
    return text.encode(errors="backslashreplace").decode()
