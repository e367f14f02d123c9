"""What probes find in a model that moves from device to device while it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from devices.gpu import Case
from torch import nn

import gradlab as gl


def numbers(probe: Any) -> list[float]:
    frame = probe.channels() if getattr(probe, "per_channel", False) else probe.result().frame
    return frame.select_dtypes("number").astype(float).to_numpy().ravel().tolist()


Make = Callable[[nn.Module], Any]
PROBES: dict[str, Make] = {
    **{kind.__name__: kind for kind in (gl.ResponseStd, gl.ResponseGradients, gl.ParameterGradients, gl.BlockSignal)},
    "ResponseStd, exact": lambda model: gl.ResponseStd(model, exact=True),
    "ResponseStd, channels": lambda model: gl.ResponseStd(model, per_channel=True),
    "InputGradients": gl.InputGradients,
    "ExampleGradients": gl.ExampleGradients,
    "AttentionStatistics": gl.AttentionStatistics,
    "BlockSignal, tokens": lambda model: gl.BlockSignal(model, tokens=True),
}


def measured(name: str, places: Sequence[str]) -> list[float]:
    """What a probe finds in one pass at each place."""
    case = Case("gpt" if name in ("AttentionStatistics", "BlockSignal, tokens") else "conv", "cpu", training=False)
    with PROBES[name](case.model) as probe:
        for place, x, y in zip(places, case.batches * 2, case.labels * 2, strict=False):
            case.model.zero_grad()
            case.model.to(place)
            case.loss(case.model(x.to(place)), y.to(place)).backward()
            if hasattr(probe, "step"):
                probe.step()
    return numbers(probe)
