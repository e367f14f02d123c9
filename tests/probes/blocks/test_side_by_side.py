"""Repeated parts that lie side by side, which are no chain with a stream from the first to the last."""

from pathlib import Path

import torch
from torch import Tensor, nn

import gradlab as gl


class Inception(nn.Module):
    """Two branches of like parts, whose outputs are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        self.right = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.left(x), self.right(x)], dim=-1)


class Two(nn.Module):
    """Two of them, which are no elements of a container."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Inception(), Inception()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Layers on all outputs so far: each is a function of the one before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4 * place, 4) for place in range(1, 5))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=-1)
        return x


def measured(model: nn.Module) -> gl.SignalResult:
    torch.manual_seed(0)
    with gl.BlockSignal(model) as probe:
        model(torch.randn(8, 4)).square().mean().backward()
    return probe.result()


def test_parts_beside_each_other_have_no_stream(tmp_path: Path) -> None:
    result = measured(Two())
    assert result.findings() == []
    assert result.frame["stream_total_std"].notna().all()
    assert result.summary()["gradient first / last"].isna().all()
    (note,) = [note for note in result.notes if "side by side" in note]
    assert note.startswith("first.right.0, second.right.0: no function of the part before")
    result.save(tmp_path, [])
    assert gl.SignalResult.load(tmp_path).findings() == []


def test_parts_that_follow_by_concatenation_are_a_chain() -> None:
    for model in (
        Dense(),
        nn.Sequential(Inception(), Inception()),
        nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))),
    ):
        result = measured(model)
        assert len(result.findings()) == 2
        assert not any("side by side" in note for note in result.notes)


def test_the_experiment_gives_no_sentence_either() -> None:
    result = gl.signal("torchvision/googlenet@init", images=2, batch_size=2, device="cpu")
    assert result.findings() == []
    assert any("side by side" in note for note in result.notes)
