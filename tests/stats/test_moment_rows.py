"""Rows of moments that passes add to, against the same in double precision, by both ways to call the library."""

import math

import pytest
import torch
from torch import Tensor

from gradlab.stats import FastMoments, moment_rows, native
from gradlab.stats.moment_rows import MomentRow, MomentRows
from gradlab.stats.tensor_functions import adder_maker

pytestmark = pytest.mark.skipif(native._library() is None, reason="there is no C compiler")


@pytest.fixture(params=["direct", "ctypes"])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> MomentRows:
    library = native._library()
    assert library is not None
    if request.param == "ctypes":
        monkeypatch.setattr(moment_rows, "adder_maker", lambda library: None)
    elif adder_maker(library) is None:
        pytest.skip("this torch describes no tensors to C")
    return MomentRows()


def new(rows: MomentRows) -> MomentRow:
    row = rows.new()
    assert row is not None
    return row


def values(*shape: int, seed: int = 0, mean: float = 0.0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + mean


@pytest.mark.parametrize("mean", [0, 100])
def test_passes_add_up_and_what_is_not_whole_is_forgotten(rows: MomentRows, mean: float) -> None:
    passes = [[values(3, 5, 4, 2, seed=n, mean=mean), values(7, seed=9 + n, mean=mean)] for n in range(4)]
    # More rows than one block has, of which the first one stays where it is.
    row, others = new(rows), [new(rows) for _ in range(100)]
    for n, tensors in enumerate(passes):
        assert all(row.add(x) for x in tensors)
        assert others[-1].add(tensors[1])
        rows.end_pass(whole=n != 2)
    for found, kept in (
        (row, [x for n in (0, 1, 3) for x in passes[n]]),
        (others[-1], [passes[n][1] for n in (0, 1, 3)]),
    ):
        x = torch.cat([part.flatten() for part in kept]).double()
        count, average, m2 = found.values()
        assert count == len(x)
        assert average == pytest.approx(x.mean().item(), rel=1e-12, abs=1e-14)
        assert m2 == pytest.approx((x - x.mean()).square().sum().item(), rel=1e-9)
    assert others[0].values() == (0, 0.0, 0.0)


def test_dense_layouts_are_served(rows: MomentRows) -> None:
    for x in (values(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), values(6, 2)[2:], values(4, 1, 3)):
        row = new(rows)
        assert row.add(x)
        rows.end_pass(whole=True)
        assert row.values()[1] == pytest.approx(x.double().mean().item(), rel=1e-12)


def test_what_is_not_served_adds_nothing(rows: MomentRows) -> None:
    x, row = values(4, 6), new(rows)
    spoilt = [x.clone().fill_(bad) for bad in (math.nan, math.inf, 3e38)]
    assert row.add(spoilt.pop())
    others = [
        x.double(),
        x.half(),
        x.bfloat16(),
        x.long(),
        x.to(torch.complex64),
        x[:, ::2],
        x.t(),
        x.expand(2, 4, 6),
        x[:0],
        x[0, 0],
    ]
    others += [x.to_sparse(), x.to("meta"), torch._efficientzerotensor(3), torch._to_functional_tensor(x), *spoilt]
    assert not any(row.add(other) for other in others)
    seen: list[bool] = []

    def taken(y: Tensor) -> Tensor:
        seen.append(row.add(y))
        return y.sum()

    torch.func.vmap(taken)(x)
    torch.func.grad(taken)(x)
    assert seen == [False, False]
    rows.end_pass(whole=True)
    assert row.values()[0] == 24


def test_a_row_counts_with_the_rest_of_its_accumulator(rows: MomentRows) -> None:
    parts = [values(5, 3, seed=n, mean=2) for n in range(3)]
    accumulator = FastMoments()
    accumulator.update(parts[0].double())
    add = accumulator.adder(rows)
    assert add is not None
    assert add is accumulator.adder(rows)
    assert add(parts[1])
    rows.end_pass(whole=True)
    accumulator.update(parts[2])
    x, found = torch.cat(parts).double(), accumulator.moments()
    assert found.count.item() == 45
    assert (found.mean.item(), found.std.item()) == pytest.approx((x.mean().item(), x.std(correction=0).item()))
    assert FastMoments(1).adder(rows) is None
