"""Gradients of inputs on a GPU, against single examples in float64 on the CPU."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from devices.gpu import MARKS, Case
from torch import Tensor, nn

import gradlab as gl

pytestmark = MARKS


def input_gradients(case: Case) -> Tensor:
    """The gradient of each example's summed logits, one example at a time, in float64 on the CPU."""
    there, rows = case.double(), []
    for x in there.batches[0].split(1):
        source = x.clone().requires_grad_()
        rows.append(torch.autograd.grad(there.model(source).sum(), source)[0].flatten())
    return torch.stack(rows)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_gradients_of_inputs(grad: Callable[[], Any]) -> None:
    case, gradients = Case("conv", training=False), list[Tensor]()
    expected = input_gradients(case)
    with grad(), gl.InputGradients(case.model, observe=gradients.append), gl.InputGradients(case.model) as probe:
        case.model(case.batches[0])
    assert gradients[0].device == case.batches[0].device
    np.testing.assert_allclose(gradients[0].flatten(1).cpu(), expected, atol=2e-5 * expected.abs().max().item())
    unit = F.normalize(expected, dim=1)
    cosines = [float(unit[i] @ unit[j]) for i, j in itertools.combinations(range(len(unit)), 2)]
    norms = expected.norm(dim=1)
    (sample,) = probe.samples
    assert sample["mean_cosine"] == pytest.approx(np.mean(cosines), rel=1e-3, abs=1e-5)
    assert sample["mean_abs_cosine"] == pytest.approx(np.mean(np.abs(cosines)), rel=1e-3)
    assert sample["row_norm_variation"] == pytest.approx((norms.std(correction=0) / norms.mean()).item(), rel=1e-3)


class Constant(nn.Module):
    """A batch normalization whose statistics are constants in the derivative."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = (y.detach()[:, None, None] for y in (x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)))
        scaled = (x - mean) / (variance + self.norm.eps).sqrt()
        return scaled * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("norm_grad", ["frozen", "full"])
def test_gradients_of_inputs_through_batch_statistics(norm_grad: Any, layout: torch.memory_format) -> None:
    case, gradients = Case("conv"), list[Tensor]()
    there, buffers = case.double(), {name: value.clone() for name, value in case.model.named_buffers()}
    if norm_grad == "frozen":
        for name, module in [*there.model.named_modules()]:
            if isinstance(module, nn.BatchNorm2d):
                parent, _, last = name.rpartition(".")
                setattr(there.model.get_submodule(parent), last, Constant(module))
    source = there.batches[0].clone().requires_grad_()
    output = there.model(source)
    (expected,) = torch.autograd.grad(output.sum(), source)
    x = case.batches[0].to(memory_format=layout)
    with torch.no_grad(), gl.InputGradients(case.model, norm_grad=norm_grad, observe=gradients.append):
        found = case.model(x)
    torch.testing.assert_close(found.cpu().double(), output.detach(), rtol=1e-4, atol=1e-5)
    scale = expected.abs().max().item()
    np.testing.assert_allclose(gradients[0].cpu(), expected, atol=1e-4 * scale)
    # The running statistics have seen the batch, once.
    assert int(case.model.norm.num_batches_tracked) == int(buffers["norm.num_batches_tracked"]) + 1
