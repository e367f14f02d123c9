"""The operation that stands inside compiled graphs, against sums in float64."""

import pytest
import torch

from gradlab.stats.custom_ops import WIDTH, add_moments


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_the_operation_adds_what_a_tensor_has(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = [(5 * torch.randn(n, 300, generator=generator) + 2).to(dtype) for n in (3, 500)]
    rows = torch.zeros(2, WIDTH, dtype=torch.float64)
    for x in parts:
        add_moments(rows, 1, x)
    values = torch.cat(parts).double()
    deviations = (values - values.mean()).square().sum()
    right = torch.stack((torch.tensor(float(values.numel())), values.mean(), deviations, torch.tensor(0.0)))
    torch.testing.assert_close(rows[1, : WIDTH - 1], right, rtol=1e-6, atol=0)
    assert not rows[0].any()
