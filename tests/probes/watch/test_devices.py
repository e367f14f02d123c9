"""Nothing waits for a device: on one whose values nobody can read, a watch still puts its records together."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradlab as gl
from gradlab.probes.watch import recorder
from gradlab.probes.watch.piece import Piece


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_record_is_made_without_reading_a_value(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    records: list[list[Piece]] = []

    class Never:
        """Values that do not arrive."""

        is_local = False

        def __init__(self, pieces: list[Piece]) -> None:
            records.append(pieces)

        def values(self) -> list[object]:
            return []

    monkeypatch.setattr(recorder, "Fetch", Never)
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10), nn.Sigmoid()
        ).to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with gl.watch(model, optimizer, every=2, measure=recorder.MEASURES):
        for _ in range(3):
            for _ in range(2):
                x = torch.randn(4, 3, 8, 8, device="meta", dtype=dtype)
                F.cross_entropy(model(x), torch.zeros(4, dtype=torch.long, device="meta")).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    assert len(records) == 2
    on_device = [piece for piece in records[0] if piece.values.is_meta]
    # Moments, activations, gradients of responses, noise, parameters, the loss.
    assert len(on_device) == 6
