"""Batches go to one rank each, whatever their number."""

import pytest

from gradlab.data.dealing import dealt


@pytest.mark.parametrize(("batches", "ranks"), [(7, 1), (7, 3), (6, 3), (2, 4), (0, 2)])
def test_every_batch_goes_to_one_rank(batches: int, ranks: int) -> None:
    shares = [[*dealt(iter(range(batches)), rank, ranks)] for rank in range(ranks)]
    assert sorted(batch for share in shares for batch in share) == [*range(batches)]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(batch % ranks == rank for rank, share in enumerate(shares) for batch in share)
