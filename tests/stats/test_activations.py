"""Counts of active and saturated values against comparisons."""

import pytest
import torch

from gradlab.stats import Workspace, activations
from gradlab.stats.activations import active_counts, active_units, one_sided_rows, saturated_count
from gradlab.stats.updates import angle, inner_products


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("unit_dim", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("rectified", [False, True])
def test_active_units(dtype: torch.dtype, unit_dim: int, rectified: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    room = Workspace()
    monkeypatch.setattr(activations, "_CHUNK", 50)
    x = torch.randn(5, 4, 3, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    x = x.relu() if rectified else x.where(x > -1, 0)
    x[:, 2] = 0
    expected = (x != 0).sum([dim for dim in range(4) if dim != unit_dim % 4]).double()
    for layout in (x, x.to(memory_format=torch.channels_last), x.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(active_counts(layout, unit_dim, rectified=rectified, room=room), expected)


def test_active_units_of_odd_shapes() -> None:
    assert active_counts(torch.tensor([0.0, -2.0, 1e-45]), 0).tolist() == [0, 1, 1]
    assert active_counts(torch.zeros(0, 3), -1).tolist() == [0, 0, 0]
    assert active_counts(torch.tensor([[torch.nan, torch.inf]]), -1).tolist() == [0, 1]


def test_saturated_values() -> None:
    y = torch.tensor([-1.0, -0.99, -0.97, 0.0, 0.97, 0.981, 1.0])
    assert saturated_count(y, -1.0, 1.0) == 4
    assert saturated_count(y, -1.0, 1.0, below=False) == 2
    rows = torch.tensor([[0.995, 0.005], [0.9, 0.1], [0.0, 1.0]])
    assert one_sided_rows(rows, -1) == 2


@pytest.mark.parametrize("size", [1e-9, 1e-4, 0.5, 3.0])
def test_the_angle_of_known_vectors(size: float) -> None:
    """Two vectors of lengths 2 and 3, `size` apart in direction."""
    one = torch.tensor([2.0, 0.0], dtype=torch.float64)
    other = 3 * torch.tensor([torch.cos(torch.tensor(size, dtype=torch.float64)), 0.0], dtype=torch.float64)
    other[1] = 3 * torch.sin(torch.tensor(size, dtype=torch.float64))
    between = (other - one).norm().item()
    found = angle(2.0, 3.0, between)
    # Of lengths that differ as much the difference has no digits left for an angle of a billionth.
    assert found == pytest.approx(size, rel=1e-6 if size > 1e-6 else 1, abs=1e-7)
    step = 2 * size * 1.0
    assert angle(2.0, (4 + step**2) ** 0.5, step) == pytest.approx(torch.atan(torch.tensor(size)).item(), rel=1e-6)


def test_angles_at_the_ends() -> None:
    assert angle(1.0, 1.0, 0.0) == 0
    assert angle(1.0, 2.0, 3.0) == pytest.approx(torch.pi)
    assert angle(1.0, 3.0, 2.0) == 0
    assert angle(0.0, 1.0, 1.0) != angle(0.0, 1.0, 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.complex64], ids=str)
def test_inner_products(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = [[torch.randn(7, 5, generator=generator, dtype=torch.complex64).to(dtype) for _ in "ab"] for _ in range(3)]
    wide = torch.complex128 if dtype.is_complex else torch.float64
    expected = [(a.to(wide).conj() * b.to(wide)).sum().real.item() for a, b in pairs]
    left, right = zip(*pairs, strict=True)
    assert inner_products(left, right).tolist() == pytest.approx(expected, rel=1e-12)
    sparse = torch.eye(4).to_sparse()
    assert inner_products([torch.ones(4, 4)], [sparse]).tolist() == [4.0]


@pytest.mark.parametrize("shape", [(5, 4, 3, 6), (5, 4), (4,), (0, 4)], ids=str)
def test_units_that_are_active_for_some_input(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for unit_dim in range(len(shape)):
        for part in (x.where(x.abs() > 1.4, 0), x.relu(), -x.relu()):
            others = [dim for dim in range(len(shape)) if dim != unit_dim]
            expected = (part != 0).sum(others) > 0 if others else part != 0
            assert torch.equal(active_units(part, unit_dim).bool(), expected)
