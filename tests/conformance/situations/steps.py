"""What lies between two optimizer steps: several passes, several losses, passes that do not count."""

from __future__ import annotations

import contextlib
import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import INPUTS, Batch, Net, Situation, refusing, vectors
from conformance.situations.networks import (
    Parts,
    body_by_hand,
    head_by_hand,
    mlp,
    mlp_by_hand,
    parts_by_hand,
)
from conformance.situations.outputs import Two, two_by_hand

KIND = "The step"


def three_steps() -> list[Batch]:
    return [*vectors(), *vectors(), *vectors()]


def accumulating(sizes: list[int], run: Net, x: Tensor, y: Tensor) -> None:
    """Micro-batches, each mean loss divided by their number."""
    for a, b in zip(x.split(sizes), y.split(sizes), strict=True):
        run.backward(run.objective(run.net, a, b) / len(sizes))
    run.step()
    run.update()


def forward_first(run: Net, x: Tensor, y: Tensor) -> None:
    """All forward passes, then one backward pass."""
    losses = [run.objective(run.net, a, b) for a, b in zip(x.chunk(2), y.chunk(2), strict=True)]
    run.backward(sum(losses) / 2)
    run.step()


def two_losses(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y) + 0.3 * net(-x).square().sum(1).mean()


def first_loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return 2 * F.cross_entropy(net(x), y)


def second_loss(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return 2 * 0.3 * net(-x).square().sum(1).mean()


def two_losses_apart(run: Net, x: Tensor, y: Tensor) -> None:
    """Two forward passes, each with a loss and a backward pass of its own."""
    run.backward(F.cross_entropy(run.net(x), y))
    run.backward(0.3 * run.net(-x).square().sum(1).mean())
    run.step()


def heads(net: Net, x: Tensor, y: Tensor) -> Tensor:
    logits, aux = net(x)
    return F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(aux, 2 - y)


def heads_apart(run: Net, x: Tensor, y: Tensor) -> None:
    """Two backward passes through one forward pass."""
    logits, aux = run.net(x)
    run.backward(F.cross_entropy(logits, y), retain_graph=True)
    run.backward(0.3 * F.cross_entropy(aux, 2 - y))
    run.step()


def adversarial(net: Net, x: Tensor, y: Tensor) -> Tensor:
    with torch.enable_grad():
        moved = x.detach().clone().requires_grad_()
        (direction,) = torch.autograd.grad(F.cross_entropy(net(moved), y, reduction="sum"), moved)
    return F.cross_entropy(net(x + 0.1 * direction.sign()), y)


def looked_at_before(run: Net, x: Tensor, y: Tensor) -> None:
    """Gradients of parameters by torch.autograd.grad, which are only looked at, then the training's pass."""
    torch.autograd.grad(F.cross_entropy(run.net(2 * x), y), list(run.net.parameters()))
    run.backward(run.objective(run.net, x, y))
    run.step()


def looked_at_in_between(run: Net, x: Tensor, y: Tensor) -> None:
    """The same through the graph of the training's pass."""
    loss = run.objective(run.net, x, y)
    torch.autograd.grad(loss, list(run.net.parameters()), retain_graph=True)
    run.backward(loss)
    run.step()


def penalized(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """A penalty on the gradient with respect to the input, each example's own."""
    x = x.detach().clone().requires_grad_()
    logits = net(x)
    (slope,) = torch.autograd.grad(logits.square().sum(), x, create_graph=True)
    return F.cross_entropy(logits, y) + slope.square().sum(1).mean()


def scaled(unscaled: tuple[int, ...], run: Net, x: Tensor, y: Tensor) -> None:
    """One scaler, an optimizer for each layer, some of them unscaled before the step."""
    parameters = dict(run.net.named_parameters())
    optimizers = [
        torch.optim.SGD([p for n, p in parameters.items() if n.startswith(layer)], 0.1) for layer in ("0", "2")
    ]
    run.backward(run.scaler.scale(run.objective(run.net, x, y)))
    for number in unscaled:
        run.scaler.unscale_(optimizers[number])
    run.step()
    for optimizer in optimizers:
        run.scaler.step(optimizer)
        optimizer.zero_grad()
    run.scaler.update()


def clipped(run: Net, x: Tensor, y: Tensor) -> None:
    run.backward(run.objective(run.net, x, y))
    torch.nn.utils.clip_grad_norm_(run.net.parameters(), 0.1)
    run.step()
    run.update()


def zeros_stay(run: Net, x: Tensor, y: Tensor) -> None:
    """Gradients that are set to zero and not to None."""
    for parameter in run.net.parameters():
        if parameter.grad is not None:
            parameter.grad.zero_()
    run.backward(run.objective(run.net, x, y))
    run.step()


def never_cleared(run: Net, x: Tensor, y: Tensor) -> None:
    run.backward(run.objective(run.net, x, y))
    run.step()


def failing(run: Net, x: Tensor, y: Tensor) -> None:
    """A forward pass that fails on the way, is caught, and is made again."""
    with contextlib.suppress(RuntimeError):
        run.net(x, True)
    run.backward(run.objective(run.net, x, y))
    run.step()


class Failing(nn.Module):
    """A model whose forward pass may fail between its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor, fail: bool = False) -> Tensor:
        x = torch.tanh(self.mid(x))
        if fail:
            raise RuntimeError("on the way")
        return self.head(x)


def failing_by_hand(net: Reference, x: Tensor, fail: bool = False) -> Tensor:
    x = torch.tanh(net.linear("mid", x))
    if fail:
        raise RuntimeError("on the way")
    return net.linear("head", x)


def parts_alone(run: Net, x: Tensor, y: Tensor) -> None:
    """Parts of the model are called, and not the model."""
    run.backward(F.cross_entropy(run.part("head", run.part("body", x)), y))
    run.step()
    run.update()


def training(run: Net, x: Tensor, y: Tensor) -> None:
    """A step of an optimizer, and a look at the model without a graph."""
    run.backward(run.objective(run.net, x, y))
    run.step()
    run.update()
    with torch.no_grad():
        run.net(x)


def summed(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y, reduction="sum")


def nothing_reached(run: Net, x: Tensor, y: Tensor) -> None:
    """A step without any backward pass, then one with it."""
    run.step()
    run.backward(run.objective(run.net, x, y))
    run.step()


PARTS = {"body": body_by_hand, "head": head_by_hand}

SITUATIONS = [
    Situation(
        "accumulated micro-batches",
        KIND,
        mlp,
        mlp_by_hand,
        data=lambda: vectors(8),
        loop=functools.partial(accumulating, [2, 2, 2, 2]),
    ),
    Situation(
        "accumulated micro-batches of one example",
        KIND,
        mlp,
        mlp_by_hand,
        data=lambda: vectors(4),
        loop=functools.partial(accumulating, [1, 1, 1, 1]),
    ),
    Situation(
        "accumulated micro-batches of two sizes",
        KIND,
        mlp,
        mlp_by_hand,
        data=lambda: vectors(7),
        loop=functools.partial(accumulating, [4, 3]),
    ),
    Situation(
        "two forward passes, one backward pass", KIND, mlp, mlp_by_hand, data=lambda: vectors(6), loop=forward_first
    ),
    Situation(
        "two losses, each with its passes",
        KIND,
        mlp,
        mlp_by_hand,
        alone=(first_loss, second_loss),
        objective=two_losses,
        loop=two_losses_apart,
    ),
    Situation(
        "two losses of two forward passes, added",
        KIND,
        mlp,
        mlp_by_hand,
        alone=(first_loss, second_loss),
        objective=two_losses,
    ),
    Situation(
        "two backward passes through one forward pass",
        KIND,
        lambda: Two(named=False),
        two_by_hand(named=False),
        objective=heads,
        loop=heads_apart,
        refused={**refusing("two backward passes"), INPUTS: "tuple"},
    ),
    Situation("adversarial examples by torch.autograd.grad", KIND, mlp, mlp_by_hand, objective=adversarial),
    Situation("gradients looked at before the pass", KIND, mlp, mlp_by_hand, loop=looked_at_before),
    Situation("gradients looked at through the pass's own graph", KIND, mlp, mlp_by_hand, loop=looked_at_in_between),
    Situation("a gradient penalty", KIND, mlp, mlp_by_hand, objective=penalized, refused=refusing("gradient")),
    Situation(
        "a GradScaler, nothing unscaled",
        KIND,
        mlp,
        mlp_by_hand,
        data=three_steps,
        loop=functools.partial(scaled, ()),
        scaler=True,
    ),
    Situation(
        "a GradScaler of two optimizers, one unscaled",
        KIND,
        mlp,
        mlp_by_hand,
        data=three_steps,
        loop=functools.partial(scaled, (1,)),
        scaler=True,
    ),
    Situation(
        "a GradScaler of two optimizers, both unscaled",
        KIND,
        mlp,
        mlp_by_hand,
        data=three_steps,
        loop=functools.partial(scaled, (0, 1)),
        scaler=True,
    ),
    Situation("clip_grad_norm_ before the step", KIND, mlp, mlp_by_hand, data=three_steps, loop=clipped),
    Situation("gradients set to zero, not to None", KIND, mlp, mlp_by_hand, data=three_steps, loop=zeros_stay),
    Situation("gradients never cleared", KIND, mlp, mlp_by_hand, data=three_steps, loop=never_cleared),
    Situation("a forward pass that failed and was caught", KIND, Failing, failing_by_hand, loop=failing),
    Situation(
        "parts of the model called without it",
        KIND,
        Parts,
        parts_by_hand,
        data=three_steps,
        loop=parts_alone,
        objective=lambda net, x, y: F.cross_entropy(net(x), y),
        parts=PARTS,
        refused={INPUTS: "model(images)"},
    ),
    Situation("blocks, trained for three steps", KIND, Parts, parts_by_hand, data=three_steps, loop=training),
    Situation("the sum of the losses of examples", KIND, mlp, mlp_by_hand, objective=summed, reduction="sum"),
    Situation("a step without a backward pass", KIND, mlp, mlp_by_hand, loop=nothing_reached),
]
