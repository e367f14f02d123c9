"""Copies to a device: what torch is asked for, as a stand-in hears it, and no wait for a simulated device."""

from typing import Any

import pytest
import torch
from devices.accelerator import NAME, SUPPORTED, accelerator, waits
from torch import nn

from gradlab.transfer import placed, uploaded


class Told:
    """A tensor or module that keeps what it is asked for."""

    def __init__(self, on_cpu: bool = True) -> None:
        self.is_cpu, self.told = on_cpu, [""]

    def pin_memory(self) -> "Told":
        self.told.append("pinned")
        return self

    def to(self, *place: Any, **options: Any) -> "Told":
        self.told.append("later" if options.get("non_blocking") else "at once")
        return self


@pytest.mark.parametrize(
    ("device", "on_cpu", "told"),
    [
        ("cuda", True, "pinned, later"),
        ("xpu", True, "later"),
        # Torch would read memory that may hold other numbers by then, or return numbers that have not arrived.
        ("mps", True, "at once"),
        ("cpu", True, "at once"),
        ("cpu", False, "at once"),
        ("cuda:1", False, "at once"),
    ],
)
def test_what_a_copy_waits_for(device: str, on_cpu: bool, told: str) -> None:
    tensor: Any = Told(on_cpu)
    uploaded(tensor, device)
    assert ", ".join(tensor.told[1:]) == told


@pytest.mark.parametrize(("device", "told"), [("cuda", "later"), ("mps", "at once"), ("cpu", "at once")])
def test_what_a_module_waits_for(device: str, told: str) -> None:
    module: Any = Told()
    assert placed(module, device).told[1:] == [told]


@pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")
def test_nothing_waits_and_the_numbers_are_the_same() -> None:
    norm, x = nn.BatchNorm1d(2), torch.linspace(-1, 1, 12).view(4, 3)
    norm.running_mean = torch.ones(2)
    module = nn.Sequential(nn.Linear(3, 2), norm).eval()
    with torch.no_grad():
        expected = module.double()(x.double())
    with accelerator():
        waits.clear()
        there = placed(module.float(), NAME, torch.float64)
        found = there(uploaded(x.double(), NAME))
        assert there is module
        assert {tensor.device.type for tensor in (*module.parameters(), *module.buffers())} == {NAME}
        assert found.dtype is torch.float64
        assert not waits
        assert torch.allclose(found.cpu(), expected, rtol=1e-6)
