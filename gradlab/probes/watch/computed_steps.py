"""The step that an optimizer computes for weights in 16 bits, before rounding takes most of it away.

A bf16 number has 8 binary digits: of an update of a thousandth of a weight the stored weight shows nothing, or several
times as much. What the optimizer computes is found by letting it make the same step on float32 copies of these
weights, their gradients and its state.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

_ELEMENTS = 1 << 24
"""The number of elements of weights that are copied at a time, unless one weight has more."""


def is_short(tensor: Tensor) -> bool:
    """Return whether a weight has so few digits that its updates are rounded away."""
    return tensor.is_floating_point() and tensor.dtype.itemsize < 4


def can_compute(optimizer: Optimizer) -> bool:
    """Return whether an optimizer is one of torch's own, whose steps can be made on copies.

    L-BFGS has one state for all parameters.
    """
    own = type(optimizer).step.__module__.startswith("torch.optim")
    return own and not isinstance(optimizer, LBFGS)


@torch.no_grad()
def computed_steps(
    optimizer: Optimizer, parameters: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """Compute what an optimizer is about to add to some of its parameters.

    Args:
        optimizer: One that `can_compute`; gradients are in place. Nothing of it changes.
        parameters: Some of its own, with gradients.

    Yields:
        Some of the parameters at a time, their steps and what they become, both in float32.
    """
    for part in _parts(parameters):
        copies = {id(p): p.detach().float() for p in part}
        starts = [copies[id(p)].clone() for p in part]
        for parameter in part:
            gradient = parameter.grad
            assert gradient is not None
            copies[id(parameter)].grad = gradient.detach().float()
        _bare_step(_on_copies(optimizer, part, copies))
        ends = [copies[id(p)] for p in part]
        yield part, list(torch._foreach_sub(ends, starts)), ends


def _parts(parameters: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    for parameter in parameters:
        if part and sum(p.numel() for p in part) + parameter.numel() > _ELEMENTS:
            yield part
            part = []
        part.append(parameter)
    if part:
        yield part


def _on_copies(optimizer: Optimizer, part: Sequence[Tensor], copies: dict[int, Tensor]) -> Optimizer:
    """Return an optimizer of the copies, with the same settings and state."""
    twin: Optimizer = object.__new__(type(optimizer))
    # Not by the copy module, which an optimizer hands its state and groups alone.
    twin.__dict__.update(optimizer.__dict__)
    twin.state = defaultdict(dict)
    for parameter in part:
        state = optimizer.state.get(parameter, {})
        twin.state[copies[id(parameter)]] = {name: _copied(value) for name, value in state.items()}
    twin.param_groups = [
        {name: _copied(value) for name, value in group.items()} | {"params": own}
        for group in optimizer.param_groups
        if (own := [copies[id(p)] for p in group["params"] if id(p) in copies])
    ]
    twin._optimizer_step_pre_hooks = OrderedDict()
    twin._optimizer_step_post_hooks = OrderedDict()
    return twin


def _copied(value: Any) -> Any:
    """Return a copy of a value of the state, which a step may change in place; 16 bits become float32."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().float() if is_short(value) else value.detach().clone()


def _bare_step(optimizer: Optimizer) -> None:
    """Make a step without the hooks that others have registered for the steps of all optimizers."""
    step = type(optimizer).step
    getattr(step, "__wrapped__", step)(optimizer)
