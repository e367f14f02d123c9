"""A model that moves to a device, or back, while it is measured: its numbers are those of one that stays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from devices.accelerator import NAME, SUPPORTED, accelerator
from devices.moving import PROBES, measured

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")


@pytest.mark.parametrize("places", [("cpu", NAME), (NAME, "cpu"), ("cpu", NAME, "cpu")], ids="-".join)
@pytest.mark.parametrize("name", PROBES)
def test_a_model_that_moves(name: str, places: Sequence[str]) -> None:
    with accelerator():
        assert measured(name, places) == pytest.approx(measured(name, ["cpu"] * len(places)), rel=1e-5, nan_ok=True)
