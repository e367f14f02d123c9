"""Co-activation against all pairs of inputs."""

import torch

from gradlab import stats


def test_coactivation_against_all_pairs():
    active = (torch.rand(3, 5, 8, generator=torch.Generator().manual_seed(0)) < 0.6).float()
    active[:, 0], active[:, 1] = 0, 1
    got = stats.activation_statistics(active.sum(-1), 8)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    expected = torch.stack([(active[..., i] * active[..., j]).mean(-1) for i, j in pairs]).double().mean(0)
    assert torch.allclose(got.coactivation, expected)
    assert torch.allclose(got.activation, active.double().mean((-1, -2)))
    assert (got.always_on >= 0.2).all()
    assert (got.always_off >= 0.2).all()
