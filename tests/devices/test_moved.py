"""A model that moves to a device, or back, while it is measured: its numbers are those of one that stays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from devices.accelerator import NAME, SUPPORTED, accelerator
from devices.gpu import Case
from torch import nn

import gradlab as gl

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")


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


@pytest.mark.parametrize("places", [("cpu", NAME), (NAME, "cpu"), ("cpu", NAME, "cpu")], ids="-".join)
@pytest.mark.parametrize("name", PROBES)
def test_a_model_that_moves(name: str, places: Sequence[str]) -> None:
    with accelerator():
        assert measured(name, places) == pytest.approx(measured(name, ["cpu"] * len(places)), rel=1e-5, nan_ok=True)
