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
"""Elements of weights that are copied at a time, unless one weight has more."""


def is_short(tensor: Tensor) -> bool:
    """Whether a weight is of so few digits that its updates are rounded away."""
    return tensor.is_floating_point() and tensor.dtype.itemsize < 4


def can_compute(optimizer: Optimizer) -> bool:
    """Whether the steps of an optimizer can be made on copies: those of torch's own, which know no other state.

    L-BFGS has one state for all parameters.
    """
    own = type(optimizer).step.__module__.startswith("torch.optim")
    return own and not isinstance(optimizer, LBFGS)


@torch.no_grad()
def computed_steps(
    optimizer: Optimizer, parameters: Sequence[Tensor]
) -> Iterator[tuple[list[Tensor], list[Tensor], list[Tensor]]]:
    """What an optimizer is about to add to some of its parameters.

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
    """The optimizer with the same settings and state, of copies of its parameters."""
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
    """A value of the state that a step may change in place; one of few digits in float32."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().float() if is_short(value) else value.detach().clone()


def _bare_step(optimizer: Optimizer) -> None:
    """Make a step without hooks that others have set on the steps of all optimizers."""
    step = type(optimizer).step
    getattr(step, "__wrapped__", step)(optimizer)
