"""Gradients on paths against every path of small networks, chained by hand in float64."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.experiments.lesion.paths import PathGradients, random_paths
from gradlab.experiments.lesion.structure import structure_of

GENERATOR = torch.Generator().manual_seed(0)


class Rectified(nn.Module):
    """Blocks relu(h(x) + F(x)), of which the second one changes the width by a linear shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 5), nn.Linear(7, 3)
        widths = [(5, 5), (5, 7), (7, 7), (7, 7)]
        self.branches = nn.ModuleList(nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, b)) for a, b in widths)
        self.wider = nn.Linear(5, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for step, branch in enumerate(self.branches):
            out = branch(x)
            out += self.wider(x) if step == 1 else x
            x = torch.relu(out)
        return self.head(x)

    def steps(self) -> list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]]:
        """Shortcut and branch of every block."""
        return [(self.wider if i == 1 else (lambda x: x), branch) for i, branch in enumerate(self.branches)]


def by_hand(model: Rectified, x: Tensor, through: tuple[bool, ...]) -> Tensor:
    """The gradient of the sum of the outputs on one path, by products with the Jacobians of its pieces."""
    states, sums = [model.stem(x)], []
    for shortcut, branch in model.steps():
        sums.append(shortcut(states[-1]) + branch(states[-1]))
        states.append(sums[-1].relu())
    _, back = torch.func.vjp(lambda h: model.head(h).sum(), states[-1])
    (gradient,) = back(torch.ones((), dtype=x.dtype))
    for (shortcut, branch), state, sum_, taken in reversed(
        [*zip(model.steps(), states[:-1], sums, through, strict=True)]
    ):
        gradient = gradient * (sum_ > 0)
        _, back = torch.func.vjp(branch if taken else shortcut, state)
        (gradient,) = back(gradient)
    return gradient @ model.stem.weight


def test_every_path_equals_its_chain_and_all_add_up_to_the_gradient() -> None:
    torch.manual_seed(0)
    model, x = Rectified().double().eval(), torch.randn(3, 6, dtype=torch.float64)
    structure = structure_of(model, "net", x)
    assert [part.addition.resized for part in structure.parts] == [False, True, False, False]
    total = torch.zeros_like(x)
    with PathGradients(model, structure) as paths:
        paths.run(lambda inputs: model(inputs).sum(1), x)
        paths.check_chain(["a", "b", "c", "d"])
        for through in itertools.product((False, True), repeat=4):
            found = paths.on_paths(torch.tensor([through] * 3))
            torch.testing.assert_close(found, by_hand(model, x, through), rtol=1e-12, atol=1e-14)
            total += found
        # Each example has a path of its own.
        mixed = torch.tensor([[True, False, False, True], [False] * 4, [True] * 4])
        expected = torch.stack([by_hand(model, x, tuple(own.tolist()))[i] for i, own in enumerate(mixed)])
        torch.testing.assert_close(paths.on_paths(mixed), expected, rtol=1e-12, atol=1e-14)
    leaf = x.clone().requires_grad_()
    model(leaf).sum().backward()
    torch.testing.assert_close(total, leaf.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "name", ["resnet8@init:0", "resnet8-preact@init:0", "torchvision/resnet18@init:0", "vit2-width=32@init:0"]
)
def test_all_paths_of_known_networks_add_up_to_the_gradient(name: str) -> None:
    model, x = gl.build(name).double(), torch.randn(2, 3, 32, 32, generator=GENERATOR, dtype=torch.float64)
    structure = structure_of(model, name, x)
    modules = 3
    leaf = x.clone().requires_grad_()
    model(leaf)[:, 0].sum().backward()
    total = torch.zeros_like(x)
    with PathGradients(model, structure) as paths:
        paths.run(lambda inputs: model(inputs)[:, 0], x)
        paths.check_chain([part.block for part in structure.parts])
        # All ways through the first modules, with everything that passes the others.
        for through in itertools.product((0, 1), repeat=modules):
            passing = torch.ones(len(structure.parts), 2, 2)
            passing[:modules, 0], passing[:modules, 1] = (
                1 - torch.tensor(through)[:, None],
                torch.tensor(through)[:, None],
            )
            total += paths.gradients(passing)
    torch.testing.assert_close(total, leaf.grad, rtol=1e-9, atol=1e-12)


class Around(Rectified):
    """The same with a way around all blocks."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x[:, :3] * x[:, 3:]


def test_a_way_around_a_module_is_named() -> None:
    model, x = Around().double().eval(), torch.randn(3, 6, dtype=torch.float64)
    structure = structure_of(model, "net", x)
    with PathGradients(model, structure) as paths:
        paths.run(lambda inputs: model(inputs).sum(1), x)
        names = [f"module {index}" for index in range(len(structure.parts))]
        with pytest.raises(GradlabError, match="gradients also flow around module 0"):
            paths.check_chain(names)


def test_random_paths_have_their_lengths_and_no_favourites() -> None:
    lengths = torch.arange(9).repeat(4000)
    through = random_paths(lengths, 8, torch.Generator().manual_seed(0))
    assert torch.equal(through.sum(1), lengths)
    share = through[lengths == 3].double().mean(0)
    # 3/8 with a standard error of 0.0077 for each of eight modules.
    assert (share - 3 / 8).abs().max() < 4 * 0.0077
