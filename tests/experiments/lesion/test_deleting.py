"""Deleted and reordered parts against networks that are written without them, bit for bit."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.experiments.lesion.plan import Lesion, deletions, orders
from gradlab.experiments.lesion.replay import Replay
from gradlab.experiments.lesion.structure import structure_of


class Bare(nn.Module):
    """A residual block of He et al. 2015 without its branch."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x))


class Kept(nn.Module):
    """A pre-activation block without its branch: only a shortcut that changes the shape gets the activated state."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.norm, self.shortcut = block.bn1, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x if isinstance(self.shortcut, nn.Identity) else self.shortcut(F.relu(self.norm(x)))


class Zero(nn.Module):
    """A branch that adds nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class InRoot(nn.Module):
    """Additions in the model itself, in place, with a scale, and a stream that is written to afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.branches = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 10)
        self.without: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if 0 not in self.without:
            x += self.branches[0](x)
        if 1 not in self.without:
            x = torch.add(x, self.branches[1](x), alpha=0.5)
        x = F.relu_(x)
        if 2 not in self.without:
            x = self.branches[2](x).add_(x)
        return self.head(x.mean((2, 3)))


def resnet(name: str) -> tuple[nn.Module, Callable[[nn.Module, int], None]]:
    model = gl.build(name)

    def delete(other: nn.Module, index: int) -> None:
        places = [(stage, i) for stage in ("layer1", "layer2", "layer3") for i in range(len(getattr(other, stage)))]
        stage, place = places[index]
        block = getattr(other, stage)[place]
        getattr(other, stage)[place] = Kept(block) if "preact" in name else Bare(block.shortcut)

    return model, delete


def torchvision() -> tuple[nn.Module, Callable[[nn.Module, int], None]]:
    model = gl.build("torchvision/resnet18@init:0")

    def delete(other: nn.Module, index: int) -> None:
        stage = getattr(other, f"layer{index // 2 + 1}")
        stage[index % 2] = Bare(stage[index % 2].downsample or nn.Identity())

    return model, delete


def transformer() -> tuple[nn.Module, Callable[[nn.Module, int], None]]:
    model = gl.build("vit2-width=32@init:0")

    def delete(other: nn.Module, index: int) -> None:
        setattr(other.blocks[index // 2], "mlp" if index % 2 else "attn", Zero())

    return model, delete


def in_root() -> tuple[nn.Module, Callable[[nn.Module, int], None]]:
    torch.manual_seed(0)
    return InRoot().eval(), lambda other, index: setattr(other, "without", (*other.without, index))


NETWORKS = {
    "resnet20": lambda: resnet("resnet20@trained"),
    "pre-activation": lambda: resnet("resnet20-preact@init:0"),
    "torchvision": torchvision,
    "transformer": transformer,
    "additions in the model": in_root,
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@torch.no_grad()
def test_a_deletion_is_the_network_without_the_branch(make: Callable) -> None:
    model, delete = make()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    structure = structure_of(model, "net", x[:2])
    parts = len(structure.parts)
    assert structure.kind == "residual module"
    with Replay(model, "net", structure) as replay:
        assert torch.equal(replay.intact(x), model(x))
        singles = sorted({0, 1, 2, 3, parts - 1} & {*range(parts)})
        for deleted in [*((index,) for index in singles), (0, parts - 1), tuple(range(parts))]:
            written = copy.deepcopy(clean(model))
            for index in deleted:
                delete(written, index)
            found = replay.lesioned(Lesion("delete", len(deleted), deleted=deleted))
            assert torch.equal(found, written(x)), deleted
            assert not torch.equal(found, replay.intact(x))
    assert torch.equal(model(x), clean(model)(x))


def clean(model: nn.Module) -> nn.Module:
    """A copy without the forward passes that a `Replay` puts into it."""
    other = copy.deepcopy(model)
    for module in other.modules():
        vars(module).pop("forward", None)
    return other


@torch.no_grad()
def test_a_layer_is_deleted_with_its_normalization() -> None:
    model, x = gl.build("plain20@trained"), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    structure = structure_of(model, "plain20", x[:2])
    assert structure.kind == "layer"
    assert structure.left_out == ["conv1", "layer2.0.conv1", "layer3.0.conv1", "fc"]
    assert len(structure.parts) == 20 - 4
    with Replay(model, "plain20", structure) as replay:
        replay.intact(x)
        for index in (0, 7, 15):
            written = clean(model)
            for name in structure.parts[index].layers:
                written.set_submodule(name, nn.Identity())
            assert len(structure.parts[index].layers) == 2
            assert torch.equal(replay.lesioned(Lesion("delete", 1, deleted=(index,))), written(x))


@torch.no_grad()
def test_blocks_take_the_places_of_others() -> None:
    model, x = gl.build("resnet20@trained"), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with Replay(model, "resnet20", structure_of(model, "resnet20", x[:2])) as replay:
        intact = replay.intact(x)
        # The first blocks of the second and third stage change the shape, and have no equal.
        assert replay.alike() == [[0, 1, 2], [3], [4, 5], [6], [7, 8]]
        written = clean(model)
        written.layer1 = nn.Sequential(*(written.layer1[i] for i in (2, 0, 1)))
        written.layer3 = nn.Sequential(*(written.layer3[i] for i in (0, 2, 1)))
        found = replay.lesioned(Lesion("reorder", 3, order=(2, 0, 1, 3, 4, 5, 6, 8, 7)))
        assert torch.equal(found, written(x))
        assert not torch.equal(found, intact)
        assert torch.equal(replay.lesioned(Lesion("intact")), intact)


class Shared(nn.Module):
    """One block that is called three times."""

    def __init__(self, deleted: int | None = None) -> None:
        super().__init__()
        self.block, self.head = nn.Sequential(nn.Linear(8, 8), nn.Tanh()), nn.Linear(8, 4)
        self.deleted = deleted

    def forward(self, x: Tensor) -> Tensor:
        for step in range(3):
            x = x if step == self.deleted else x + self.block(x)
        return self.head(x)


@torch.no_grad()
def test_a_block_that_is_called_three_times_is_three_modules() -> None:
    torch.manual_seed(0)
    model, x = Shared().eval(), torch.randn(5, 8)
    structure = structure_of(model, "shared", x[:2])
    assert len(structure.parts) == 3
    with Replay(model, "shared", structure) as replay:
        replay.intact(x)
        for step in range(3):
            written = Shared(step)
            written.load_state_dict(model.state_dict())
            assert torch.equal(replay.lesioned(Lesion("delete", 1, deleted=(step,))), written(x))


def test_choices_hang_on_the_seed_and_swaps_stay_in_their_group() -> None:
    several = deletions(6, (2, 4, 9), 2, 0)
    assert several == deletions(6, (2, 4, 9), 2, 0) != deletions(6, (2, 4, 9), 2, 1)
    assert [(one.count, len(set(one.deleted))) for one in several] == [(2, 2), (2, 2), (4, 4), (4, 4)]
    alike = [[0, 1, 2], [3], [4, 5]]
    swapped = orders(alike, (1, 3), 2, 0)
    assert swapped == orders(alike, (1, 3), 2, 0) != orders(alike, (1, 3), 2, 1)
    for one in swapped:
        assert [sorted(one.order[i] for i in group) for group in alike] == alike
    assert sum(place != block for place, block in enumerate(swapped[0].order)) == 2
    assert orders([[0], [1]], (1,), 2, 0) == []
