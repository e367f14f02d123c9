"""Other people's hooks: on a layer, on its normalization, on both; ones that look, that clone, that change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import Net, Situation, images, refusing
from conformance.situations.networks import mlp, mlp_by_hand, normalized, normalized_by_hand

KIND = "Other people's hooks"

Hang = Callable[[nn.Module], Any]


def cloning(module: nn.Module) -> None:
    module.register_forward_hook(lambda module, args, output: output.clone())


def cloning_before(module: nn.Module) -> None:
    module.register_forward_pre_hook(lambda module, args: tuple(arg.clone() for arg in args))


def looking_back(module: nn.Module) -> None:
    module.register_full_backward_hook(lambda module, inward, outward: None)


def looking_before_back(module: nn.Module) -> None:
    module.register_full_backward_pre_hook(lambda module, outward: tuple(g.clone() for g in outward))


def looking_at_tensors(module: nn.Module) -> None:
    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient.clone())

    module.register_forward_hook(hook)


def with_hooks(*hung: tuple[str, Hang]) -> Callable[[], nn.Module]:
    """The convolutional net with hooks on layers, by name."""

    def make() -> nn.Module:
        net = normalized()
        net[2].inplace = False  # torch itself refuses that on what a full backward hook returns.
        for name, hang in hung:
            hang(net.get_submodule(name))
        return net

    return make


def on_both(what: str, hang: Hang) -> list[Situation]:
    """The same hook on a layer, on its normalization, on both."""
    places = {"a layer": ("0",), "its normalization": ("1",), "a layer and its normalization": ("0", "1")}
    return [
        Situation(
            f"{what} on {place}",
            KIND,
            with_hooks(*((name, hang) for name in names)),
            normalized_by_hand,
            data=images,
            loop=looking_first,
        )
        for place, names in places.items()
    ]


def looking_first(run: Net, x: Tensor, y: Tensor) -> None:
    """A pass without a graph, then one with it: the hooks must not matter in either."""
    with torch.no_grad():
        run.net(x)
    run.backward(run.objective(run.net, x, y))
    run.step()


def doubled_output() -> nn.Module:
    net = mlp()
    net[0].register_forward_hook(lambda module, args, output: 2 * output)
    return net


def doubled_output_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", 2 * F.linear(x, *net.of("0")))
    return net.linear("2", torch.tanh(x))


def doubled_input() -> nn.Module:
    net = mlp()
    net[2].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return net


def doubled_input_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("2", 2 * torch.tanh(net.linear("0", x)))


def tripled(x: Tensor) -> Tensor:
    """The same values, with a gradient three times as large."""
    if x.requires_grad:
        x = x * 1
        x.register_hook(lambda gradient: 3 * gradient)
    return x


def changed_input_gradient() -> nn.Module:
    net = mlp()
    net[2].register_full_backward_hook(lambda module, inward, outward: (3 * inward[0],))
    return net


def changed_input_gradient_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("2", tripled(torch.tanh(net.linear("0", x))))


def changed_tensor_gradient() -> nn.Module:
    net = mlp()

    def hook(module: nn.Module, args: Any, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: 3 * gradient)

    net[1].register_forward_hook(hook)
    return net


def changed_tensor_gradient_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("2", tripled(torch.tanh(net.linear("0", x))))


def changed_parameter_gradient() -> nn.Module:
    net = mlp()
    net[0].weight.register_hook(lambda gradient: 3 * gradient)
    return net


def changed_parameter_gradient_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", F.linear(x, tripled(net["0.weight"]), net["0.bias"]))
    return net.linear("2", torch.tanh(x))


def accumulated_elsewhere() -> nn.Module:
    """A hook after accumulation that only looks, as those of optimizers fused with the backward pass."""
    net = mlp()
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(lambda parameter: None)
    return net


def patched() -> nn.Module:
    net = mlp()
    original = net[0].forward
    net[0].forward = lambda *args, **kwargs: original(*args, **kwargs).clone()
    return net


SITUATIONS = [
    *on_both("a forward hook that clones", cloning),
    *on_both("a forward-pre hook that clones", cloning_before),
    *on_both("a full backward hook", looking_back),
    *on_both("a full backward-pre hook that clones", looking_before_back),
    *on_both("a tensor hook that clones", looking_at_tensors),
    Situation("a forward hook that doubles the output", KIND, doubled_output, doubled_output_by_hand),
    Situation("a forward-pre hook that doubles the input", KIND, doubled_input, doubled_input_by_hand),
    Situation(
        "a full backward hook that changes the gradient", KIND, changed_input_gradient, changed_input_gradient_by_hand
    ),
    Situation(
        "a tensor hook that changes the gradient", KIND, changed_tensor_gradient, changed_tensor_gradient_by_hand
    ),
    Situation(
        "a hook on a weight that changes its gradient",
        KIND,
        changed_parameter_gradient,
        changed_parameter_gradient_by_hand,
        refused=refusing("0.weight"),
    ),
    Situation("hooks on weights after accumulation", KIND, accumulated_elsewhere, mlp_by_hand),
    Situation("a layer whose forward is another's function", KIND, patched, mlp_by_hand),
]
