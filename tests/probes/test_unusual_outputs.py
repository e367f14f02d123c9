"""Responses in other layouts than dense ones, without values, and of modules that are replaced meanwhile."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode

import gradlab as gl
from gradlab.errors import GradlabError

LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "sparse": Tensor.to_sparse,
    "csr": Tensor.to_sparse_csr,
    "mkldnn": Tensor.to_mkldnn,
    "nested": lambda y: torch.nested.nested_tensor([y[:1], y[1:]]),
    "jagged": lambda y: torch.nested.nested_tensor([y[:1], y[1:]], layout=torch.jagged),
}


class Layer(nn.Module):
    """A layer of one's own, whose output has another layout."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change((x @ self.weight).relu())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_values_count_in_every_layout(layout: str) -> None:
    model = nn.Sequential(Layer(LAYOUTS[layout]))
    batches = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings(), torch.no_grad(), gl.ResponseStd(model, layers=["0"]) as probe:
        # Torch calls these layouts prototypes.
        warnings.simplefilter("ignore")
        for batch in batches:
            model(batch)
    row = probe.result().to_frame().iloc[0]
    expected = (batches.double() @ model[0].weight.double()).relu()
    assert row["count"] == expected.numel()
    assert row["std"] == pytest.approx(expected.std(correction=0).item(), rel=1e-6)
    assert row["mean"] == pytest.approx(expected.mean().item(), rel=1e-6)


def test_outputs_without_values_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
    with gl.ResponseStd(model), FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(GradlabError, match="values"):
        model(torch.ones(3, 4))
    model = model.to("meta")
    with gl.ResponseStd(model), pytest.raises(GradlabError, match="on the meta device"):
        model(torch.ones(3, 4, device="meta"))
    model(torch.ones(3, 4, device="meta")).sum().backward()
    for kind in (gl.ParameterGradients, gl.ResponseGradients):
        with kind(model) as probe, pytest.raises(GradlabError, match="on the meta device"):
            probe.step()


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.filterwarnings("ignore:the model is compiled")
def test_a_module_that_takes_the_place_of_another_is_named(is_compiled: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5))
    run = torch.compile(model, backend="eager") if is_compiled else model
    with torch.no_grad(), gl.ResponseStd(run) as probe:
        for number in range(4):
            if number == 2:
                model[1] = nn.Linear(5, 5)
            run(torch.ones(3, 4))
    result = probe.result()
    assert list(result.to_frame()["count"]) == [4 * 15, 2 * 15]
    assert any(note.startswith("1: the module there took the place") for note in result.notes)
    assert result.coverage.share < 0.5
