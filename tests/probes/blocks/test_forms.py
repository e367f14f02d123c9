"""However a block is written, `gl.BlockSignal` finds it; what is no block it leaves alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl

WIDTH = 6

Add = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Block(nn.Module):
    """Adds a branch of two layers to its input in one of many ways."""

    def __init__(self, add: Add) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.gate = nn.Linear(WIDTH, WIDTH)
        self.gamma = nn.Parameter(torch.rand(WIDTH) + 0.5)
        self.add = add

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self, x, self.down(torch.relu(self.up(x))))


class Net(nn.Module):
    """A layer, blocks and a head."""

    def __init__(self, add: Add, blocks: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(add) for _ in range(blocks))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def in_place(block: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
    branch += x
    return branch


def highway(block: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
    gate = torch.sigmoid(block.gate(x))
    return gate * branch + (1 - gate) * x


def index_add(block: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
    """Stochastic depth of the kind that computes a branch for some examples only."""
    chosen = torch.tensor([0, 2])
    return torch.index_add(x, 0, chosen, branch[chosen], alpha=2.0)


def chosen_rows(x: Tensor, branch: Tensor) -> Tensor:
    kept = torch.zeros(len(x), 1).index_fill(0, torch.tensor([0, 2]), 2.0)
    return kept * branch


def gated(block: nn.Module, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
    gate = torch.sigmoid(block.gate(x))
    return (1 - gate) * x, gate * branch


FORMS: dict[str, tuple[Add, Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]]] = {
    "x + f": (lambda b, x, f: x + f, lambda b, x, f: (x, f)),
    "f + x": (lambda b, x, f: f + x, lambda b, x, f: (x, f)),
    "f += x": (in_place, lambda b, x, f: (x, f)),
    "f.add_(x)": (lambda b, x, f: f.add_(x), lambda b, x, f: (x, f)),
    "alpha": (lambda b, x, f: torch.add(x, f, alpha=0.3), lambda b, x, f: (x, 0.3 * f)),
    "alpha of the stream": (lambda b, x, f: torch.add(f, x, alpha=0.3), lambda b, x, f: (0.3 * x, f)),
    "scaled stream": (lambda b, x, f: 1.7 * x + f, lambda b, x, f: (1.7 * x, f)),
    "sum": (lambda b, x, f: sum([x, f]), lambda b, x, f: (x, f)),  # type: ignore[return-value, arg-type]
    "layer scale": (lambda b, x, f: x + b.gamma * f, lambda b, x, f: (x, b.gamma * f)),
    "addcmul": (lambda b, x, f: torch.addcmul(x, b.gamma, f, value=0.5), lambda b, x, f: (x, 0.5 * b.gamma * f)),
    "addcmul_": (lambda b, x, f: (1 * x).addcmul_(b.gamma, f), lambda b, x, f: (x, b.gamma * f)),
    "lerp": (lambda b, x, f: torch.lerp(x, f, 0.3), lambda b, x, f: (0.7 * x, 0.3 * f)),
    "highway": (highway, gated),
    "index_add": (index_add, lambda b, x, f: (x, chosen_rows(x, f))),
    "aten": (lambda b, x, f: torch.ops.aten.add.Tensor(x, f), lambda b, x, f: (x, f)),
    "dropout": (lambda b, x, f: x + F.dropout(f, 0.0, True), lambda b, x, f: (x, f)),
    "dropped": (lambda b, x, f: x + f * torch.zeros(len(f), 1), lambda b, x, f: (x, 0 * f)),
    "gated branch": (
        lambda b, x, f: x + x * torch.sigmoid(f), lambda b, x, f: (x, x * torch.sigmoid(f))
    ),
}  # fmt: skip
"""How a block adds, and what the stream and the branch are that it adds."""


def data(examples: int = 4) -> Tensor:
    return torch.randn(examples, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_addition(form: str) -> None:
    add, parts = FORMS[form]
    model = Net(add)
    with gl.BlockSignal(model) as probe:
        model(data()).square().mean().backward()
    frame = probe.result().to_frame()
    assert list(frame["block"]) == ["blocks.0", "blocks.1"]
    assert list(frame["branch"]) == ["", ""]
    x, expected = model.stem(data()), []
    for block in model.blocks:
        stream, branch = parts(block, x, block.down(torch.relu(block.up(x))))
        (behind := stream + branch).retain_grad()
        expected.append((stream.detach().double(), branch.detach().double(), behind))
        x = behind
    model.head(x).square().mean().backward()
    for (_, row), (stream, branch, behind) in zip(frame.iterrows(), expected, strict=True):
        variance = branch.var(0, correction=0).mean().item()
        assert row["branch_std"] == pytest.approx(variance**0.5, rel=2e-6)
        assert row["ratio"] == pytest.approx(variance / stream.var(0, correction=0).mean().item(), rel=3e-6)
        assert row["stream_std"] == pytest.approx(behind.detach().var(0, correction=0).mean().sqrt().item(), rel=1e-5)
        if branch.any():
            cosine = F.cosine_similarity(stream.flatten(), branch.flatten(), 0)
            assert row["cosine"] == pytest.approx(cosine.item(), abs=1e-6)
        assert behind.grad is not None
        rms = behind.grad.double().square().mean().sqrt().item()
        assert row["stream_grad_rms"] == pytest.approx(rms, rel=1e-5)
        assert row["branch_grad_rms"] == pytest.approx(rms, rel=1e-5)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class TwoBranches(nn.Module):
    """Attention and MLP, one after the other or side by side, before or behind normalization."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.attn = form, Attention()
        self.mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
        self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "parallel":
            return x + self.attn(self.n1(x)) + self.mlp(self.n1(x))
        if self.form == "parallel, two norms":
            return x + self.attn(self.n1(x)) + self.mlp(self.n2(x))
        if self.form == "branches first":
            return self.attn(self.n1(x)) + self.mlp(self.n2(x)) + x
        if self.form == "branches first, one norm":
            y = self.n1(x)
            return x + (self.mlp(y) + self.attn(y))
        if self.form == "post":
            x = self.n1(x + self.attn(x))
            return self.n2(x + self.mlp(x))
        if self.form == "sandwich":
            x = x + self.n1(self.attn(x))
            return x + self.n2(self.mlp(x))
        x = x + self.attn(self.n1(x))
        return x + self.mlp(self.n2(x))


class Transformer(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.h = nn.Embedding(9, WIDTH), nn.Sequential(*[TwoBranches(form) for _ in range(2)])

    def forward(self, ids: Tensor) -> Tensor:
        return self.h(self.embed(ids))


TRANSFORMERS = ["pre", "post", "sandwich", "parallel", "parallel, two norms"]
TRANSFORMERS += ["branches first", "branches first, one norm"]


@pytest.mark.parametrize("form", TRANSFORMERS)
def test_two_branches(form: str) -> None:
    model, ids = Transformer(form), torch.arange(9).repeat(2, 1)
    copies: dict[str, Tensor] = {}
    for name in ("attn", "mlp", "n1", "n2", ""):
        place = f"h.0.{name}".rstrip(".")
        model.get_submodule(place).register_forward_hook(
            lambda module, args, output, place=place: copies.update({place: output.detach().double().clone()})
        )
    with gl.BlockSignal(model) as probe, torch.no_grad():
        model(ids)
    frame = probe.result().to_frame()
    order = ["mlp", "attn"] if form == "branches first, one norm" else ["attn", "mlp"]
    assert list(frame["block"]) == ["h.0", "h.0", "h.1", "h.1"]
    assert list(frame["branch"]) == order * 2
    assert list(frame["index"]) == [1, 1, 2, 2]
    first = frame[frame["block"] == "h.0"].set_index("branch")
    embedded = model.embed(ids).double().detach()
    added = {"attn": "h.0.n1", "mlp": "h.0.n2"} if form == "sandwich" else {"attn": "h.0.attn", "mlp": "h.0.mlp"}
    beside = form.startswith("branches")
    streams = {"attn": embedded, "mlp": embedded if beside else embedded + copies[added["attn"]]}
    if form == "post":
        streams["mlp"] = copies["h.0.n1"]
    for branch, stream in streams.items():
        variance = _variance(copies[added[branch]])
        assert first["branch_std"][branch] == pytest.approx(math.sqrt(variance), rel=1e-6)
        assert first["ratio"][branch] == pytest.approx(variance / _variance(stream), rel=2e-6)
        cosine = F.cosine_similarity(stream.flatten(), copies[added[branch]].flatten(), 0).item()
        assert first["cosine"][branch] == pytest.approx(cosine, abs=1e-6)
    assert first["stream_std"]["mlp"] == pytest.approx(math.sqrt(_variance(copies["h.0"])), rel=1e-6)
    between = copies["h.0"] if beside else streams["mlp"]
    assert first["stream_std"]["attn"] == pytest.approx(math.sqrt(_variance(between)), rel=1e-6)


def _variance(values: Tensor) -> float:
    return values.flatten(0, -2).var(0, correction=0).mean().item()


class Uneven(nn.Module):
    """Branches of one and of two layers, which look like a projection and a branch until x is added to their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.short = nn.Linear(WIDTH, WIDTH)
        self.long = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        return (self.short(x) + self.long(x)) + x


def test_branches_that_look_like_a_projection() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Uneven(), Uneven())
    with gl.BlockSignal(model) as probe:
        model(data())
    frame = probe.result().to_frame()
    assert list(zip(frame["block"], frame["branch"], strict=True)) == [
        (block, branch) for block in ("1", "2") for branch in ("short", "long")
    ]
    x = model[0](data())
    for row, branch in zip(range(2), (model[1].short(x), model[1].long(x)), strict=True):
        cosine = F.cosine_similarity(x.flatten(), branch.flatten(), 0).item()
        assert frame["cosine"][row] == pytest.approx(cosine, abs=1e-6)
        assert frame["input_std"][row] == pytest.approx(x.var(0, correction=0).mean().sqrt().item(), rel=1e-5)


def test_a_branch_with_an_addition_of_its_own_is_told_from_it() -> None:
    """As in attention that adds its queries to its result (Li et al. 2021, arXiv:2112.01526)."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            query = self.first(x)
            return query + self.second(torch.relu(query))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Inner()

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inner(x)

    torch.manual_seed(0)
    with gl.BlockSignal(nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sequential(Outer(), Outer()))) as probe:
        probe.model(data())
    frame = probe.result().to_frame()
    assert list(frame["block"]) == ["1.0", "1.0", "1.1", "1.1"]
    assert list(frame["branch"]) == ["second", "inner"] * 2
    assert list(frame["index"]) == [1, 1, 2, 2]


class GeluByHand(nn.Module):
    """x + 0.044715 x³ is an addition of a signal and a function of it, and no block."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))


class Rotary(nn.Module):
    """Queries and keys turned by their positions: sums of a signal and of itself with its halves exchanged."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        angle = torch.arange(x.shape[-2])[:, None] * torch.ones(WIDTH)
        q, k = (t * angle.cos() + torch.cat((-t[..., 3:], t[..., :3]), -1) * angle.sin() for t in (q, k))
        mask = torch.full((x.shape[-2],) * 2, -torch.inf).triu(1)
        return (q @ k.mT + mask).softmax(-1) @ v + 0.1


class Recurrent(nn.Module):
    """A recurrent layer by hand: both summands are weighted, of different parts of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs, self.hidden = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), WIDTH)
        for step in range(x.shape[1]):
            state = torch.tanh(self.inputs(x[:, step]) + self.hidden(state))
        return state[:, None] * torch.ones_like(x)


class Res2(nn.Module):
    """Slices of a signal, each added to a function of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        parts = x.split(2, -1)
        first = self.layers[0](parts[0])
        return torch.cat((first, self.layers[1](parts[1] + first), parts[2]), -1)


NO_BLOCKS = [GeluByHand, Rotary, Recurrent, Res2, nn.GELU, nn.Identity]


@pytest.mark.parametrize("kind", NO_BLOCKS)
def test_what_is_no_block(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(), nn.Linear(WIDTH, WIDTH), kind())
    with gl.BlockSignal(model) as probe:
        model(torch.randn(2, 5, WIDTH))
    assert not probe._finder.residual


@pytest.mark.parametrize("kind", NO_BLOCKS)
def test_only_the_block_around_it(kind: type[nn.Module]) -> None:
    """What is no block does not hide the block in whose branch it is."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = nn.Sequential(nn.Linear(WIDTH, WIDTH), kind(), nn.Linear(WIDTH, WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.inside(x)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), Around(), Around())
    with gl.BlockSignal(model) as probe:
        model(torch.randn(2, 5, WIDTH))
    assert list(probe.result().to_frame()["block"]) == ["1", "2"]
