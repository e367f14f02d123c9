"""The compiled gradients of single examples, for each kind of processor, against explicit ones in float64."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab.stats
from gradlab.stats import (
    Geometry,
    Workspace,
    convolution_gradients,
    example_native,
    example_normalizations,
    example_rows,
    example_winograd,
)
from gradlab.stats.example_convolutions import NativeGradients
from gradlab.stats.pair_products import PairProducts

pytestmark = pytest.mark.skipif(example_native._library() is None, reason="there is no C compiler")

MODULES: dict[str, Any] = {
    "example_convolutions": example_native,
    "example_winograd": example_winograd,
    "example_rows": example_rows,
    "example_normalizations": example_normalizations,
}
"""The modules that load a library, by the name of its source."""


@pytest.fixture(scope="module", params=["best", "avx2", "plain"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ctypes.CDLL]:
    """The libraries as this processor runs them, and as lesser ones do."""
    if request.param == "best":
        return {name: module._library() for name, module in MODULES.items()}
    if request.param == "avx2" and "AVX" not in torch.backends.cpu.get_cpu_capability():
        pytest.skip("this processor has no AVX2")
    folder, compiler = tmp_path_factory.mktemp("native"), shutil.which("cc") or "gcc"
    version, found = f"-DCHOSEN(name)=name##_{request.param}", {}
    for name, module in MODULES.items():
        source, out = Path(gradlab.stats.__file__).parent / f"{name}.c", folder / f"{name}.so"
        command = [compiler, "-O3", "-Wno-psabi", "-shared", "-fPIC", version, "-o", str(out), str(source), "-lm"]
        subprocess.run(command, check=True)
        found[name] = ctypes.CDLL(str(out))
        assert module._computes(found[name])
    return found


@pytest.fixture(autouse=True)
def chosen(compiled: dict[str, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, module in MODULES.items():
        monkeypatch.setattr(module, "_library", lambda name=name: compiled[name])


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("size", "weight", "settings"),
    [
        ((8, 8), (16, 16, 3, 3), {"padding": 1}),
        ((33, 21), (5, 3, 3, 3), {"padding": (1, 2), "stride": 2}),
        ((9, 7), (11, 20, 2, 3), {"padding": (2, 1), "stride": (2, 3), "dilation": (3, 1)}),
        ((7, 5), (9, 34, 1, 1), {"stride": 2}),
        ((40, 3), (2, 6, 7, 1), {"padding": (3, 0), "dilation": (1, 5)}),
        ((33, 21), (19, 17, 3, 3), {"padding": (0, 2)}),
        ((6, 9), (16, 40, 3, 3), {}),
        ((2, 1), (33, 16, 3, 3), {"padding": 1}),
    ],
)
def test_convolutions(
    size: tuple[int, int],
    weight: tuple[int, ...],
    settings: dict[str, Any],
    layout: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In parts of two examples, of which one has no gradient."""
    make: Any = nn.Conv2d
    layer = make(weight[1], weight[0], weight[2:], bias=False, dtype=torch.float64, **settings)
    x = random(5, weight[1], *size).contiguous(memory_format=layout)
    output = layer(x.double())
    g = random(*output.shape).contiguous(memory_format=layout)
    g[3] = 0
    rows = torch.stack(
        [torch.autograd.grad(output[i], layer.weight, g[i].double(), retain_graph=True)[0].flatten() for i in range(5)]
    )
    geometry = Geometry(weight, layer.stride, layer.padding, layer.dilation, layer.groups)
    for together in (2, 5):
        monkeypatch.setattr("gradlab.stats.example_gradients._VALUES", together * rows.shape[1])
        found = convolution_gradients(x, g, geometry)
        assert type(found) is NativeGradients
        assert found.winograd is (min(weight[:2]) >= 16 and weight[2:] == (3, 3))
        products = PairProducts(5)
        norms, sums, *_ = found.reduced(Workspace(), products)
        torch.testing.assert_close(found.rows(), rows.float(), rtol=1e-5, atol=1e-6 * rows.norm().item())
        torch.testing.assert_close(norms, rows.norm(dim=1), rtol=1e-6, atol=0)
        torch.testing.assert_close(products.total, rows @ rows.T, rtol=1e-5, atol=1e-6 * rows.square().sum().item())
        total = found.in_order(sums[:, 0])
        torch.testing.assert_close(total, rows.sum(0).float(), rtol=1e-5, atol=1e-6 * rows.norm().item())


@pytest.mark.parametrize(("examples", "length"), [(1, 5), (2, 16), (7, 2048), (9, 4099), (4, 30000)])
@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_rows_are_reduced(examples: int, length: int, scale: float) -> None:
    rows = random(examples, length) * scale
    if examples > 2:
        rows[1] = 0
    wide = rows.double()
    found = example_rows.reduced_rows(rows)
    assert found is not None
    assert found.doubtful == (examples > 2)
    torch.testing.assert_close(found.norms, wide.norm(dim=1), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.sum_norm, wide.sum(0).norm(), rtol=1e-6, atol=0)
    directions = F.normalize(wide, eps=0).nan_to_num().sum(0)
    torch.testing.assert_close(found.direction_norm, directions.norm(), rtol=2e-6, atol=0)
    torch.testing.assert_close(found.total, wide.sum(0).float(), rtol=1e-5, atol=1e-6 * scale)
    expected = wide @ wide.T
    torch.testing.assert_close(found.products, expected, rtol=1e-5, atol=1e-6 * expected.amax().item())


def test_small_rows_among_others() -> None:
    """Of which some have squares, or values, that float32 does not hold; one is 0. No value changes."""
    rows = random(9, 3000) * torch.tensor([1.0, 1e-15, 1e-20, 1e-25, 1e-30, 1e-38, 1e-44, 0.0, 1e10])[:, None]
    kept, wide, sums = rows.clone(), rows.double(), torch.zeros(9, 9, dtype=torch.float64)
    found = example_rows.reduced_rows(rows, sums)
    assert found is not None
    assert torch.equal(rows, kept)
    assert found.doubtful
    assert found.added
    assert torch.equal(sums, found.products)
    torch.testing.assert_close(found.norms, wide.norm(dim=1), rtol=1e-6, atol=0)
    norms = wide.norm(dim=1).clamp(min=1e-300)
    cosines = (found.products - wide @ wide.T) / norms[:, None] / norms
    torch.testing.assert_close(cosines, torch.zeros_like(cosines), rtol=0, atol=1e-6)
    found = example_rows.reduced_rows(rows[:3].contiguous() * 1e-3, sums[:3, :3].contiguous())
    assert found is not None
    assert not found.doubtful
    torch.testing.assert_close(found.norms, wide[:3].norm(dim=1) * 1e-3, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [(), (7,), (8, 8), (3, 700)])
def test_normalizations(size: tuple[int, ...]) -> None:
    x, g = random(3, 5, *size), random(4, 5, *size)[1:]
    mean, var = random(5), random(5).square()
    layer = nn.BatchNorm1d(5, eps=1e-3).double().eval()
    layer.running_mean, layer.running_var = mean.double(), var.double()
    rows = []
    for i in range(3):
        values = x[i].flatten(1)[None] if size else x[i : i + 1]
        loss = (layer(values.double()) * g[i].double().reshape(values.shape)).sum()
        rows.append(torch.stack(torch.autograd.grad(loss, [layer.weight, layer.bias])))
    expected = torch.stack(rows, 1)
    found = example_normalizations.normalization_rows(x, g, mean, var, 1e-3)
    assert found is not None
    torch.testing.assert_close(found[0], expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.stack(found[1:]), expected.sum(1).float(), rtol=1e-5, atol=1e-5)
    assert example_normalizations.normalization_rows(x, g, mean.double(), var, 1e-3) is None


@pytest.mark.parametrize("value", [1e30, float("nan"), float("inf")])
def test_what_float32_cannot_square_is_left_to_others(value: float) -> None:
    rows = torch.ones(3, 40)
    rows[1] = value
    assert example_rows.reduced_rows(rows) is None


def test_what_it_does_not_serve() -> None:
    x = random(4, 6)
    for other in (x.double(), x.half(), x.new_empty(0, 3), x.to_sparse(), x.to("meta"), x[:, ::2]):
        assert example_rows.reduced_rows(other) is None


@pytest.mark.parametrize("size", [1, 40, 5000])
@pytest.mark.parametrize("scales", [(1e30, 1e20, 1e19), (1e-30, 1e-25, 1e15), (3e38, 1.0, 1e3)])
def test_normalizations_at_any_scale(size: int, scales: tuple[float, float, float]) -> None:
    """Products leave the range of float32 on the way, and one example has no gradient."""
    inputs, gradients, std = scales
    x, g = random(3, 4, size) * (inputs / 5), random(4, 4, size)[1:] * gradients
    g[1] = 0
    mean, var = x[0, :, 0].clone(), torch.full((4,), std).square()
    found = example_normalizations.normalization_rows(x, g, mean, var, 0.0)
    assert found is not None
    products = g.double() * (x.double() - mean[:, None].double())
    expected = products.sum(2) / var.double().sqrt()
    atol = 1e-6 * products.abs().sum(2).max().item() / var[0].double().sqrt().item()
    torch.testing.assert_close(found[0][0].double(), expected, rtol=1e-5, atol=atol + 1e-45)
    torch.testing.assert_close(found[0][1].double(), g.double().sum(2), rtol=1e-5, atol=1e-5 * gradients)
