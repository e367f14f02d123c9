"""The device itself: what it must find, by faults that are planted, and what it must let pass."""

import pytest
import torch
from devices.accelerator import NAME, SUPPORTED, MixedDevicesError, accelerator, own_waits, waits
from torch import nn

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")

MASK = torch.tensor([True, False, True])
WAITING = {
    "a number": lambda x: x[0].item(),
    "a truth value": lambda x: bool(x[0] > 0),
    "a list": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.cpu(),
    "the same into memory that the device cannot write to": lambda x: torch.empty(3).copy_(x, non_blocking=True),
    "a copy from the host": lambda x: torch.ones(3).to(x.device),
    "numbers of Python": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "numbers of Python like a tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "an index of booleans": lambda x: x[x > 0],
    "an index on the host": lambda x: x[torch.tensor([0, 1])],
    "places": lambda x: x.nonzero(),
    "a choice by a mask": lambda x: x.masked_select(x > 0),
    "eigenvalues": lambda x: torch.linalg.eigvalsh(x.outer(x)),
    "equality": lambda x: torch.equal(x, x),
    "different values": lambda x: x.unique(),
    "repetitions of unknown number": lambda x: x.repeat_interleave(x.long().abs()),
}
PASSING = {
    "arithmetic with a number of the host": lambda x: x * torch.tensor(2.0) + 1,
    "an asynchronous copy": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "an asynchronous copy to the host": lambda x: x.to("cpu", non_blocking=True),
    "numbers that no memory holds": lambda x: torch.zeros(3, device=x.device) + x.new_full((3,), 2.0),
    "a write through a mask": lambda x: x.clone().__setitem__(x > 0, 0.0),
    "a choice of place": lambda x: x.where(x > 0, 0)[1:],
    "repetitions of known number": lambda x: x.repeat_interleave(x.long().abs(), output_size=2),
}


def device_tensor():
    return torch.tensor([1.0, -1.0, 0.5]).to(NAME)


def test_the_device_is_there_inside_only():
    for _ in range(2):
        with accelerator():
            assert torch.accelerator.current_accelerator(check_available=True).type == NAME
        assert torch.accelerator.current_accelerator(check_available=True) is None
        assert not torch.accelerator.is_available()


@pytest.mark.parametrize("what", WAITING)
def test_what_waits_is_found_with_its_line(what):
    with accelerator():
        x = device_tensor()
        waits.clear()
        WAITING[what](x)
    assert [(wait.own, wait.line) for wait in waits] == [(False, waits[0].line)]
    assert f'"{what}"' in waits[0].line


@pytest.mark.parametrize("what", PASSING)
def test_what_does_not_wait_passes(what):
    with accelerator():
        x = device_tensor()
        waits.clear()
        PASSING[what](x)
    assert not waits


MIXED = {
    "a sum": lambda x: x + torch.ones(3),
    "a product": lambda x: torch.ones(2, 3) @ x,
    "a row of tensors": lambda x: torch.cat([x, torch.ones(3)]),
    "a write": lambda x: x.__setitem__(torch.tensor([0, 1], device=NAME), torch.ones(2)),
    "a function": lambda x: nn.functional.linear(x, torch.ones(2, 3)),
    "a generator of the host": lambda x: torch.randn(3, device=x.device, generator=torch.Generator()),
}


@pytest.mark.parametrize("what", MIXED)
def test_mixed_devices_are_refused(what):
    with accelerator():
        x = device_tensor()
        with pytest.raises(MixedDevicesError, match="on the device"):
            MIXED[what](x)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))


def test_a_module_keeps_its_parameters_when_it_is_moved():
    with accelerator():
        layer, head = nn.Linear(2, 2), nn.Linear(2, 2)
        head.weight = layer.weight
        model, before = nn.Sequential(layer, head), [layer.weight, layer.bias, head.bias]
        for dtype in (torch.float32, torch.float64):
            model.to(NAME, dtype)
            assert all(now is then for now, then in zip(model.parameters(), before, strict=True))
            assert {(p.device.type, p.dtype) for p in model.parameters()} == {(NAME, dtype)}
            assert model.double()(torch.ones(1, 2).double().to(NAME)).shape == (1, 2)


def test_training_gives_the_numbers_of_the_cpu_and_waits_nowhere():
    losses = {}
    for place in ("cpu", NAME):
        with accelerator():
            model = network().to(place)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
            x, kept = torch.linspace(-1, 1, 2 * 3 * 64).view(2, 3, 8, 8).to(place), []
            waits.clear()
            for _ in range(3):
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                kept.append(loss.detach())
            assert not [wait for wait in waits if "torch" not in wait.where]
            assert all(parameter.grad.device.type == place for parameter in model.parameters())
            losses[place] = torch.stack(kept).cpu()
    assert torch.equal(losses["cpu"], losses[NAME])
    assert losses["cpu"][0] > losses["cpu"][-1]


@pytest.mark.parametrize("fault", ["item", "mask", "mixed"])
def test_a_fault_in_a_statistic_is_found_and_blamed_on_gradlab(fault, monkeypatch):
    """A probe whose statistic is wrong in each of three ways, as the suite must see it."""
    import gradlab as gl
    from gradlab.stats import FastMoments

    update = FastMoments.update
    faults = {
        "item": lambda x: x.sum().item(),
        "mask": lambda x: x[x > 0],
        "mixed": lambda x: x + torch.ones(x.shape),
    }

    def wrong(self, x):
        faults[fault](x.detach())
        update(self, x)

    monkeypatch.setattr(FastMoments, "update", wrong)
    with accelerator():
        model, x = network().to(NAME), torch.ones(2, 3, 8, 8).to(NAME)
        waits.clear()
        probe = gl.ResponseStd(model)
        if fault == "mixed":
            with pytest.raises(MixedDevicesError), probe:
                model(x)
        else:
            with probe:
                model(x)
            # The line of the fault itself lies outside of gradlab; the line of gradlab that leads to it is named.
            assert len(own_waits()) == 3
            assert all("probes/responses.py" in found for found in own_waits())
