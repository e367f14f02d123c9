"""`gl.BlockSignal` on sums of levels: feature pyramids, and decoders whose sums are blocks."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork

import gradlab as gl
from gradlab.experiments.lesion.structure import structure_of

NOTE = "sums of a projection and an enlarged coarser level, as in a feature pyramid, are no blocks"


class Residual(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(channels, out, 1, 2)
        self.first, self.second = nn.Conv2d(channels, out, 3, 2, 1), nn.Conv2d(out, out, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.second(self.first(x).relu())


class Pyramid(nn.Module):
    """Three stages, residual or not, under the pyramid of torchvision and a head for ten classes."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        sizes = [(3, 4), (4, 8), (8, 16)]
        self.stages = nn.ModuleList(
            Residual(*size) if residual else nn.Sequential(nn.Conv2d(*size, 3, 2, 1), nn.ReLU()) for size in sizes
        )
        self.pyramid, self.head = FeaturePyramidNetwork([4, 8, 16], 8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        levels: OrderedDict[str, Tensor] = OrderedDict()
        for name, stage in self.stages.named_children():
            levels[name] = x = stage(x)
        return self.head(sum((level.mean((2, 3)) for level in self.pyramid(levels).values()), torch.zeros(8)))


class Decoder(nn.Module):
    """One level down and up again, by a module or a function, with a shortcut of its own."""

    def __init__(self, up: nn.Module | None, shortcut: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.down = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.deep, self.up, self.shortcut = nn.Conv2d(4, 4, 3, 1, 1), up, shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        deep = self.deep(self.down(x).relu())
        deep = F.interpolate(deep, scale_factor=2) if self.up is None else self.up(deep)
        return self.shortcut(x) + deep


def measured(model: nn.Module) -> gl.SignalResult:
    torch.manual_seed(1)
    with gl.BlockSignal(model) as probe:
        model(torch.randn(2, 3, 16, 16)).sum().backward()
    return probe.result()


def test_sums_of_levels_are_left_out_of_residual_nets() -> None:
    result = measured(Pyramid(residual=True))
    assert result.frame["block"].tolist() == ["stages.0", "stages.1", "stages.2"]
    assert [note for note in result.notes if NOTE in note] == [f"pyramid: {NOTE}"]


def test_blocks_have_the_same_values_without_the_pyramid() -> None:
    whole, model = measured(Pyramid(residual=True)), Pyramid(residual=True)
    streams: list[Tensor] = []
    for stage in model.stages:
        stage.register_forward_hook(lambda module, args, output: streams.append(output.detach().double()))
    torch.manual_seed(1)
    model(torch.randn(2, 3, 16, 16))
    by_hand = [stream.var((0, 2, 3), correction=0).mean().sqrt().item() for stream in streams]
    assert whole.frame["stream_std"].tolist() == pytest.approx(by_hand, rel=1e-6)


def test_sums_of_levels_are_no_blocks_of_nets_without_others() -> None:
    result = measured(Pyramid(residual=False))
    assert result.frame["ratio"].isna().all()
    assert f"pyramid: {NOTE}" in result.notes


@pytest.mark.parametrize("residual", [True, False])
def test_lesions_leave_sums_of_levels_alone(residual: bool) -> None:
    found = structure_of(Pyramid(residual).eval(), "net", torch.randn(2, 3, 16, 16))
    assert found.notes == [f"pyramid: {NOTE}"]
    assert found.kind == ("residual module" if residual else "layer")
    assert not any("pyramid" in part.block and part.addition for part in found.parts)


UPWARD: list[Any] = [None, nn.Upsample(scale_factor=2), nn.ConvTranspose2d(4, 4, 2, 2)]


@pytest.mark.parametrize("up", UPWARD, ids=["interpolate", "Upsample", "ConvTranspose2d"])
def test_only_a_projected_level_is_none(up: nn.Module | None) -> None:
    """The sum of a signal and a function of it is a block, on whichever way the function was computed."""
    (row,) = measured(Decoder(up, nn.Identity())).frame.to_dict("records")
    assert row["ratio"] > 0
    with pytest.raises(gl.GradlabError, match="no block of Decoder was seen"):
        measured(Decoder(up, nn.Conv2d(4, 4, 1)))


def test_a_block_may_enlarge_its_stream_and_its_branch() -> None:
    """As in generators (Miyato et al. 2018), where the shortcut is enlarged and projected."""

    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.shortcut, self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            stream = self.shortcut(F.interpolate(x, scale_factor=2))
            return stream + self.second(self.first(F.interpolate(x, scale_factor=2)).relu())

    (row,) = measured(Up()).frame.to_dict("records")
    assert row["ratio"] > 0
