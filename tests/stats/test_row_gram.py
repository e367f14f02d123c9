import pytest
import torch

from gradlab.stats import cosines, relative_effective_rank, row_norm_variation
from gradlab.stats.row_gram import RowGram, fetched_grams


def rows_of(n, p, spread=0, dtype=torch.float64):
    rows = torch.randn(n, p, dtype=torch.float64, generator=torch.Generator().manual_seed(n + p))
    return (rows * torch.logspace(-spread, spread, n, dtype=torch.float64)[:, None]).to(dtype)


def by_each(rows):
    """The five statistics by functions of their own, from the rows themselves."""
    pairs = cosines(rows)
    ranks = [relative_effective_rank(rows, unit=unit) for unit in (True, False)]
    return torch.stack([*ranks, pairs.mean(), pairs.abs().mean(), row_norm_variation(rows)])


@pytest.mark.parametrize(("n", "p"), [(2, 2), (5, 40), (12, 3)])
@pytest.mark.parametrize("spread", [0, 3, 60])
@pytest.mark.parametrize("scale", [1, 1e-150, 1e150])
def test_statistics_are_those_of_the_rows(n, p, spread, scale):
    rows = rows_of(n, p, spread) * scale
    torch.testing.assert_close(RowGram.of(rows).statistics(), by_each(rows), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_without_a_direction_do_not_count(dtype):
    rows = rows_of(7, 9, dtype=dtype)
    rows[1], rows[3, 2], rows[4, 0] = 0, torch.nan, torch.inf
    (found,) = fetched_grams([RowGram.of(rows)])
    torch.testing.assert_close(found.usable().statistics(), by_each(rows[[0, 2, 5, 6]]), rtol=1e-10, atol=1e-12)


def test_rows_of_zeros_have_no_statistics():
    assert len(RowGram.of(torch.zeros(3, 4)).usable().norms) == 0
    assert fetched_grams([]) == []
