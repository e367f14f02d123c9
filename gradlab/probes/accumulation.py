"""Hooks that are called when the gradient of a parameter has been added to."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from gradlab.probes.hooks import Hook


def after_accumulation(stack: ExitStack, parameter: Tensor, call: Callable[[Tensor], None]) -> RemovableHandle | None:
    """Call a function each time a backward pass has added to a parameter's gradient, until the stack closes.

    A frozen parameter may be trained later, as in gradual unfreezing. Torch keeps the hook over that, but takes one
    only of a parameter that requires a gradient, as this therefore does while the hook is registered.

    Args:
        stack: The stack for the handle.
        parameter: A leaf; of one that can have no gradient, such as integers, nothing is called.
        call: The function, which is given the parameter.

    Returns:
        The handle, which the stack removes; None where nothing is called.
    """
    frozen = not parameter.requires_grad
    if frozen and (parameter.is_inference() or not (parameter.is_floating_point() or parameter.is_complex())):
        return None
    try:
        parameter.requires_grad_()
        if not parameter._post_accumulate_grad_hooks:
            # Torch hands a list over to its engine only where there is none, and a swap takes it from the engine alone.
            parameter._post_accumulate_grad_hooks = None  # type: ignore[assignment]
        handle: RemovableHandle = parameter.register_post_accumulate_grad_hook(Hook(call))
        stack.enter_context(handle)
        return handle
    finally:
        parameter.requires_grad_(not frozen)
