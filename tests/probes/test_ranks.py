"""Results of one process of several, and of all of them together."""

import pytest
import torch
from torch import nn

import gradlab as gl


@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.ResponseGradients, gl.InputGradients])
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_local_result_names_its_rank(kind: type, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with kind(model, local=True) as probe:
        model(torch.randn(5, 3)).square().sum().backward()
        getattr(probe, "step", int)()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    assert any(note.startswith("rank 2 of 4: ") for note in probe.result().notes) == (ranks > 1)
