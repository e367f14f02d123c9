"""Updates of weights against formulas and differences in float64: in float32, and in 16 bits before rounding."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from probes.watch.loop import batch, made, train
from torch import Tensor, nn

import gradlab as gl

Rule = Callable[[Tensor, Tensor, dict[str, Tensor], int], Tensor]


def sgd(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    """SGD with momentum 0.9 and weight decay 0.01, as torch.optim.SGD's documentation has it."""
    gradient = gradient + 0.01 * weight
    state["buffer"] = gradient if step == 0 else 0.9 * state["buffer"] + gradient
    return -RATE * state["buffer"]


def adam(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int, decay: float = 0.0) -> Tensor:
    """Adam (Kingma and Ba 2015, Algorithm 1), with decoupled weight decay (Loshchilov and Hutter 2019, Algorithm 2)."""
    zero = torch.zeros_like(weight)
    state["m"] = 0.9 * state.get("m", zero) + 0.1 * gradient
    state["v"] = 0.999 * state.get("v", zero) + 0.001 * gradient.square()
    m, v = state["m"] / (1 - 0.9 ** (step + 1)), state["v"] / (1 - 0.999 ** (step + 1))
    return -RATE * (m / (v.sqrt() + 1e-4) + decay * weight)


def adamw(weight: Tensor, gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    return adam(weight, gradient, state, step, decay=0.1)


RATE = 1e-5
"""Small: of weights of size 1 in bf16, steps of this size are rounded away."""

CASES: dict[str, tuple[Callable[..., torch.optim.Optimizer], Rule]] = {
    "SGD": (lambda p, **o: torch.optim.SGD(p, RATE, momentum=0.9, weight_decay=0.01, **o), sgd),
    "Adam": (lambda p, **o: torch.optim.Adam(p, RATE, eps=1e-4, **o), adam),
    "AdamW": (lambda p, **o: torch.optim.AdamW(p, RATE, eps=1e-4, weight_decay=0.1, **o), adamw),
}


class Two(nn.Module):
    """Two weights of different sizes; their gradients are given."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.one, self.other = nn.Linear(30, 20, bias=False), nn.Linear(20, 40, bias=False)
        for layer, size in ((self.one, 1.0), (self.other, 0.05)):
            layer.weight = nn.Parameter(size * torch.randn(layer.weight.shape, generator=generator).to(dtype))


def gradients(model: Two, step: int) -> None:
    generator = torch.Generator().manual_seed(10 + step)
    for place, parameter in enumerate(model.parameters()):
        parameter.grad = (10.0**-place * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)


def of(frame: pd.DataFrame, step: int, layer: str) -> dict[str, float]:
    return frame[(frame["step"] == step) & (frame["layer"] == layer)].set_index("statistic")["value"].to_dict()


def right(weight: Tensor, update: Tensor, gradient: Tensor) -> dict[str, float]:
    """By float64, with the arc cosine where it has digits enough."""
    after = weight + update
    cosine = (weight * after).sum() / (weight.norm() * after.norm())
    across = update - weight * (update * weight).sum() / weight.norm() ** 2
    along = weight.norm() + (update * weight).sum() / weight.norm()
    assert math.isclose(math.cos(math.atan2(across.norm(), along)), cosine, rel_tol=1e-12)
    return {
        "update_norm": update.norm().item(),
        "update_ratio": (update.norm() / weight.norm()).item(),
        "update_cosine": (-(update * gradient).sum() / (update.norm() * gradient.norm())).item(),
        "angular_update": math.atan2(across.norm(), along),
        "weight_norm": weight.norm().item(),
        "grad_norm": gradient.norm().item(),
        "relative": (gradient.norm() / weight.norm()).item(),
        "grad_rms": gradient.norm().item() / math.sqrt(gradient.numel()),
    }


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
def test_updates_in_float32_are_the_difference(name: str, options: dict[str, bool]) -> None:
    model = Two(torch.float32)
    optimizer = CASES[name][0](model.parameters(), **options)
    expected = []
    with gl.watch(model, optimizer, every=1, measure=["gradients", "updates"]) as watch:
        for step in range(3):
            gradients(model, step)
            before = [p.detach().double() for p in model.parameters()]
            given = [p.grad.double() for p in model.parameters()]
            optimizer.step()
            after = [p.detach().double() for p in model.parameters()]
            expected.append([right(b, a - b, g) for b, a, g in zip(before, after, given, strict=True)])
    frame = watch.result().frame
    for step, layers in enumerate(expected):
        for layer, values in zip(("one", "other"), layers, strict=True):
            assert of(frame, step, layer) == pytest.approx(values, rel=1e-6)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_updates_in_16_bits_are_what_the_optimizer_computes(
    name: str, options: dict[str, bool], dtype: torch.dtype
) -> None:
    model = Two(dtype)
    make, rule = CASES[name]
    optimizer = make(model.parameters(), **options)
    states: list[dict[str, Tensor]] = [{}, {}]
    rounded = 0
    with gl.watch(model, optimizer, every=1, measure=["gradients", "updates"]) as watch:
        for step in range(3):
            gradients(model, step)
            weights = [p.detach().double() for p in model.parameters()]
            given = [p.grad.double() for p in model.parameters()]
            updates = [rule(w, g, s, step) for w, g, s in zip(weights, given, states, strict=True)]
            optimizer.step()
            rounded += (model.one.weight.double() - weights[0]).norm() < 0.9 * updates[0].norm()
            frame = watch.result().frame
            for layer, w, u, g in zip(("one", "other"), weights, updates, given, strict=True):
                found, values = of(frame, step, layer), right(w, u, g)
                found.pop("cancelled_fraction", None)
                assert found == pytest.approx(values, rel=0.02), layer
    # What is left of them in the weights is something else.
    assert rounded or name == "SGD" or dtype is torch.float16


def test_a_step_that_breaks_in_16_bits_alone_is_no_number() -> None:
    """Adam's ε is 0 in float16, and so is the square of a small gradient."""
    model = Two(torch.float16)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    gradients(model, 0)
    model.one.weight.grad[0, 0] = 1e-7
    with gl.watch(model, optimizer, every=1, measure=["updates"]) as watch:
        optimizer.step()
    assert not model.one.weight.isfinite().all()
    assert math.isnan(of(watch.result().frame, 0, "one")["update_norm"])


def test_the_twin_of_an_optimizer_changes_nothing() -> None:
    ends = []
    for watching in (True, False):
        model = Two(torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=torch.tensor(0.01), amsgrad=True)
        called: list[int] = []
        optimizer.register_step_post_hook(lambda *_, called=called: called.append(1))
        for step in range(3):
            gradients(model, step)
            if watching:
                with gl.watch(model, optimizer, every=1):
                    optimizer.step()
            else:
                optimizer.step()
        assert len(called) == 3
        ends.append([*model.parameters(), *(v for s in optimizer.state.values() for v in s.values())])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


class Stranger(torch.optim.SGD):
    """Somebody's own optimizer, of which nothing is known but its steps."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter -= 0.01 * parameter.grad.sign()
            parameter.grad.zero_()


def test_a_step_that_cannot_be_made_twice_is_refused_in_16_bits() -> None:
    model = Two(torch.bfloat16)
    model.other.float()
    optimizer = Stranger(model.parameters(), lr=0.1)
    gradients(model, 0)
    before, given = model.other.weight.detach().clone(), model.other.weight.grad.clone()
    with gl.watch(model, optimizer, every=1, measure=["gradients", "updates"]) as watch:
        optimizer.step()
    result = watch.result()
    assert "update_norm" not in of(result.frame, 0, "one")
    assert result.notes == [note for note in result.notes if note.startswith("one.weight: the update of weights in 16")]
    update = (model.other.weight.detach() - before).double()
    values = right(before.double(), update, given.double())
    assert of(result.frame, 0, "other") == pytest.approx(values, rel=1e-6)


def test_parameters_of_no_watched_optimizer_are_told() -> None:
    notes = []
    for whole in (True, False):
        model = Two(torch.float32)
        optimizer = torch.optim.SGD((model if whole else model.one).parameters(), lr=0.1)
        others = torch.optim.SGD(model.other.parameters(), lr=0.1)
        with gl.watch(model, optimizer, every=1, measure=("gradients", "updates")) as watch:
            gradients(model, 0)
            optimizer.step()
            others.step()
        notes.append(watch.result().notes)
    assert notes[0] == []
    assert notes[1] == [
        "other.weight: in no watched optimizer, whose steps add nothing to it: what others add is not measured"
    ]


def test_attention_tied_sparse_and_frozen_weights() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(7, 8, sparse=True)
            self.attention = nn.MultiheadAttention(8, 2)
            self.tied = nn.Linear(8, 8, bias=False)
            self.again = nn.Linear(8, 8, bias=False)
            self.again.weight = self.tied.weight
            self.frozen = nn.Linear(8, 3).requires_grad_(False)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.embedding(tokens)
            x = self.attention(x, x, x)[0]
            return self.frozen(self.again(self.tied(x)))

    torch.manual_seed(0)
    model = Odd()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model)
    with gl.watch(model, optimizer, every=1) as watch:
        model(torch.tensor([[1, 2, 2], [3, 0, 1]])).square().sum().backward()
        optimizer.step()
    frame = watch.result().frame
    moved = {name: (p - q).detach() for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True)}
    packed = moved["attention.in_proj_weight"]
    expected = {
        "embedding": moved["embedding.weight"],
        "attention.query": packed[:8],
        "attention.key": packed[8:16],
        "attention.value": packed[16:],
        "attention.out_proj": moved["attention.out_proj.weight"],
        "tied": moved["tied.weight"],
        "again": moved["tied.weight"],
    }
    for layer, update in expected.items():
        found = of(frame, 0, layer)
        assert found["update_norm"] == pytest.approx(update.double().norm().item(), rel=1e-6), layer
        assert found["update_cosine"] == pytest.approx(1.0, abs=1e-5), layer
        assert found["grad_norm"] == pytest.approx(10 * update.double().norm().item(), rel=1e-4), layer
    assert "update_norm" not in of(frame, 0, "frozen")
    whole = torch.cat([update.flatten() for update in moved.values()]).double().norm().item()
    assert of(frame, 0, "total")["update_norm"] == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("measure", [["gradients", "updates"], ["gradients"]])
@pytest.mark.parametrize("left", [True, False], ids=["left gradient", "no gradient"])
def test_weights_that_move_though_they_are_frozen_are_named(left: bool, measure: list) -> None:
    """By a gradient that is left; without one torch's optimizers pass a weight by."""
    model = made()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, 1)
    model.deep.weight.requires_grad_(False)
    if not left:
        model.deep.weight.grad = None
    before = model.deep.weight.clone()
    with gl.watch(model, optimizer, every=1, measure=measure) as watch:
        x, y = batch(1)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert torch.equal(before, model.deep.weight) is not left
    notes = [note for note in watch.result().notes if "changed by a step" in note]
    assert [note.partition(":")[0] for note in notes] == (["deep.weight"] if left and "updates" in measure else [])


def test_weights_that_move_without_a_gradient_are_named() -> None:
    """As an optimizer may decay all weights that it has, or go on by their momentum."""

    class Decay(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.9)

    model = made()
    optimizer = Decay(model.parameters(), lr=0.1)
    with gl.watch(model, optimizer, every=1) as watch:
        x, y = batch(1)
        F.cross_entropy(model(x).detach() * model.head.bias.sum(), y).backward()
        optimizer.step()
    [note] = [note for note in watch.result().notes if "changed by a step" in note]
    named = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert len(named) > 5
    assert {"stem.weight", "head.weight"} & {name for name in named if name in note}
