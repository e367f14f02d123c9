"""Responses from batch statistics against those that torch's normalization gives and a probe reads."""

import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.experiments.responses.known import KnownResponseStd, is_known
from gradlab.stats import native


def network(affine=True):
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, affine=affine), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.BatchNorm2d(6)]
    model = nn.Sequential(*parts, nn.Flatten(), nn.Linear(6 * 16, 7), nn.BatchNorm1d(7), nn.Linear(7, 2)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.3, 1)
    return model


def images(seed):
    return torch.randn(9, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) + 0.5


def measured(model, probe):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad(), probe:
        outputs = [model(images(seed)) for seed in range(3)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return torch.cat(outputs), probe.result().frame


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("affine", [True, False])
def test_known_responses_are_those_of_the_outputs(compiled, layout, affine, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native, "_library", lambda: None)
    model = network(affine).to(memory_format=layout)
    assert is_known(model)
    outputs, found = measured(model, KnownResponseStd(model))
    with gl.batch_statistics(model):
        expected_outputs, expected = measured(model, gl.ResponseStd(model, exact=True))
    torch.testing.assert_close(outputs, expected_outputs, rtol=1e-4, atol=1e-4)
    for column in ("std", "mean", "count"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), rel=1e-5, abs=1e-6)
    assert not any("forward" in vars(module) for module in model.modules())


def test_an_image_that_is_not_finite_spoils_the_same_layers():
    model, spoilt = network(), images(0)
    spoilt[3, 1, 2, 2] = torch.nan
    found = {}
    for probe in (KnownResponseStd(model), gl.ResponseStd(model)):
        with torch.no_grad(), gl.batch_statistics(model), probe:
            model(spoilt)
        found[type(probe)] = probe.result().frame[["layer", "count", "non_finite"]]
    assert found[KnownResponseStd].equals(found[gl.ResponseStd])


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_other_normalizations_are_not_known():
    assert not is_known(nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(4)))
    assert not is_known(nn.Sequential(nn.Conv2d(3, 4, 3)))
    model = network()
    model[1].register_forward_hook(lambda module, args, out: out + 1)
    assert not is_known(model)
