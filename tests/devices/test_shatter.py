"""Fully connected nets on a device: weights are sent without waiting, and gradients are those of the CPU."""

import pytest
import torch
from devices.accelerator import NAME, SUPPORTED, accelerator, own_waits, waits

import gradlab as gl
from gradlab.models import forward_mode, full_gradient, parse_family

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="this torch has no backends in Python")
POINTS = torch.linspace(-2, 2, 16, dtype=torch.float64)


@pytest.mark.parametrize("name", ["ff", "ff-norm=bn", "resnet", "ll"])
@pytest.mark.parametrize("mode", ["frozen", "full"])
def test_gradients_without_a_wait(name, mode):
    family, found = parse_family(name).at(18), {}
    with accelerator():
        for place in ("cpu", NAME):
            waits.clear()
            if mode == "frozen":
                run = forward_mode(family, POINTS, [0, 1], [4, 18], width=8, device=place)
                found[place] = torch.cat([run.gradients[18].flatten(), run.active.double().flatten()])
            else:
                found[place] = full_gradient(family, POINTS, 0, 18, width=8, device=place)
            assert not own_waits(), "\n".join(own_waits())
            found[place] = found[place].cpu()
    torch.testing.assert_close(found[NAME], found["cpu"], rtol=1e-6, atol=0)


def test_the_command_waits_as_often_whatever_the_depth():
    counts, found = [], {}
    with accelerator():
        for place, depth in (("cpu", 6), (NAME, 6), (NAME, 12)):
            waits.clear()
            options = {"seeds": 3, "width": 8, "points": 16, "lags": 4, "device": place}
            found[place, depth] = gl.shatter([2, depth], ["ff", "resnet"], **options)
            counts.append(len(own_waits()))
    assert counts[0] == 0 < counts[1] == counts[2]
    expected, measured = found["cpu", 6].frame["acf"].tolist(), found[NAME, 6].frame["acf"].tolist()
    assert measured == pytest.approx(expected, rel=1e-5)
