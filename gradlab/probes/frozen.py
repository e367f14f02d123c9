"""Batch normalization with statistics that the derivative treats as constants, with unchanged values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlab.errors import GradlabError

_TRAINING = 5
"""The place of the argument that asks for statistics of the batch, in `aten::batch_norm`."""


class FrozenStatistics(TorchFunctionMode):
    """A context in which batch normalization can be differentiated with the batch's statistics as constants.

    With y = γ (x − m) / √(v + ε) + β, where m and v are the mean and variance of the batch, that derivative is
    dy/dx = γ / √(v + ε), the quantity in the theorems of Balduzzi et al. 2017 (arXiv:1702.08591), in which examples
    do not depend on each other. Backward passes use it while `constant` is true. Any other backward pass through the
    same graph, and every value, is the same as without this context.

    Every call of `torch.nn.functional.batch_norm` is affected, whichever module makes it. A user's own normalization
    that computes batch statistics by other means is not.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constant = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and give batch normalization by batch statistics its second derivative."""
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func is not F.batch_norm:
            return output
        x, factor = _derivative(*args, **kwargs)
        return output if factor is None else _TwoDerivatives.apply(x, output, factor, self)  # type: ignore[no-untyped-call]


def refuse_scripted_statistics(model: nn.Module) -> None:
    """Check that no batch statistics are taken in scripted modules, whose functions no context affects.

    Raises:
        GradlabError: If some are.
    """
    scripted = [(name, part) for name, part in model.named_modules() if isinstance(part, torch.jit.ScriptModule)]
    inner = {part for _, whole in scripted for part in whole.modules() if part is not whole}
    for name, module in scripted:
        if _takes_statistics(module, unclear=module not in inner):
            raise GradlabError(
                f"{name} is scripted, so that its batch statistics cannot be taken as constants in the derivative: "
                "give norm_grad='full', call model.eval(), or probe the module that was scripted"
            )


def _takes_statistics(module: torch.jit.ScriptModule, *, unclear: bool) -> bool:
    """Return whether a scripted module normalizes with statistics of the batch.

    Args:
        module: The module, with the modules that it calls.
        unclear: What to return where its graph does not tell.
    """
    if not module._c._has_method("forward"):
        return False
    # A graph that is not kept takes its nodes with it.
    graph = module.inlined_graph
    asked = [[*node.inputs()][_TRAINING] for node in graph.findAllNodes("aten::batch_norm")]  # type: ignore[attr-defined]
    itself = next(graph.inputs()).unique()  # type: ignore[attr-defined]

    def now(value: Any) -> Any:
        """Return what a value of the graph is: a constant, an attribute, or a choice between such; else None."""
        node = value.node()
        if value.unique() == itself:
            return module
        if node.kind() == "prim::GetAttr":
            return getattr(now(node.input()), node.s("name"), None)
        if node.kind() == "prim::If" and (condition := now(node.input())) is not None:
            place = [output.unique() for output in node.outputs()].index(value.unique())
            yes, no = node.blocks()
            return now([*(yes if condition else no).outputs()][place])
        # What is traced remains in the mode that it was traced in.
        return value.toIValue()

    return any(unclear if (value := now(each)) is None else bool(value) for each in asked)


def _derivative(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor | None]:
    """Return the input of `F.batch_norm` and γ / √(v + ε) per channel, or None if batch statistics are not used."""
    if not training:
        return input, None
    x = input.detach()
    wide = x if x.dtype == torch.float64 else x.float()
    factor = (wide.var([0, *range(2, x.ndim)], correction=0) + eps).rsqrt()
    if weight is not None:
        factor = factor * weight.detach()
    return input, factor.to(x.dtype).view(-1, *[1] * (x.ndim - 2))


class _TwoDerivatives(torch.autograd.Function):
    """The identity of y, which passes the gradient on to y or, multiplied by a factor, directly to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, factor: Tensor, mode: FrozenStatistics) -> Tensor:
        """Return y itself rather than a copy, since later operations such as in-place ReLU may overwrite it."""
        # `save_for_backward` is not used: activation checkpointing counts saved tensors, and recomputes without us.
        ctx.factor, ctx.mode = factor, mode
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradient of x or that of y."""
        (gradient,) = gradients
        return (gradient * ctx.factor, None, None, None) if ctx.mode.constant else (None, gradient, None, None)
