"""The rows of a responses frame."""

from __future__ import annotations

import math
from typing import Any

from gradlab.probes.selection import layer_stride
from gradlab.probes.targets import Target


def response_row(
    layer: str,
    index: int,
    target: Target,
    predicted_std: float,
    *,
    std: float = math.nan,
    mean: float = math.nan,
    count: int = 0,
    call: int = 1,
    non_finite: int = 0,
) -> dict[str, Any]:
    """Make one layer's row of a responses frame; without measured values it holds a prediction only."""
    return {
        "layer": layer,
        "index": index,
        "kind": target.kind,
        "std": std,
        "mean": mean,
        "count": count,
        "predicted_std": predicted_std,
        "call": call,
        "stride": 1 if target.module is None else layer_stride(target.module),
        "non_finite": non_finite,
        "shortcut": target.shortcut,
    }
