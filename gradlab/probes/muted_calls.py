"""Calls of torch's own layers out of sight of what looks for weights in functions: a mode, or the weights' class.

The mode sees every function of torch in a pass, also those inside of `nn.Conv2d`, `nn.BatchNorm2d` or `nn.ReLU`. What
these do with a signal is known, and torch's way to show a function to a mode takes longer than the probe's other work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradlab.probes.hooks import Hook

if TYPE_CHECKING:
    from gradlab.probes.applications import Applications
    from gradlab.probes.direct_calls import Call

Around = Callable[..., Any]
"""A function of one that calls a module, and of its arguments."""


def is_own_leaf(module: nn.Module) -> bool:
    """Return whether a module is one of torch's own, as its class makes it, without modules inside."""
    own = type(module).__module__.startswith("torch.nn.modules.")
    return own and "forward" not in vars(module) and not any(module.children())


def muted(module: nn.Module, mode: Applications, seen: Call, around: Around | None = None) -> Call:
    """Return a function that calls a module, out of sight of the mode if it is one of torch's own layers.

    The mode sees what it may have to know: a call with weights or constants, or with hooks of other users, which may
    do anything; and other modes see all calls.

    Args:
        module: The module.
        mode: The mode.
        seen: Calls the module in sight of the mode.
        around: What is done around the call, with the function that calls the module and its arguments.

    Returns:
        A function of the arguments of the module, which returns what `around` does, or the module's output without it.
    """
    around = around or _only_call
    if not mode.rows or not is_own_leaf(module):
        return partial(around, seen)
    call, takes_signal, unseen = module._call_impl, _signal_test(module, mode), torch._C.DisableTorchFunction
    weighted = any(parameter.ndim > 1 for parameter in module.parameters())

    def called(*args: Any, **kwargs: Any) -> Any:
        if weighted or mode.depth:
            # The work of the probe is out of sight as well.
            with unseen():
                if not kwargs and takes_signal(args):
                    return around(call, *args)
        return around(seen, *args, **kwargs)

    return called


def _signal_test(module: nn.Module, mode: Applications) -> Callable[[tuple[Any, ...]], bool]:
    """Return a function that tells whether a layer is as torch made it, and is called with a signal."""
    kind, own, in_place = type(module), vars(module), vars(module).get("inplace")
    before, behind = own["_forward_pre_hooks"], own["_forward_hooks"]
    modes, is_constant = torch._C._len_torch_function_stack, mode.is_constant

    def takes_signal(args: tuple[Any, ...]) -> bool:
        if len(args) != 1 or type(args[0]) is not Tensor or modes() != mode.depth or not mode.plain:
            return False
        for table in (before, behind):
            for hook in table.values():
                if type(hook) is not Hook:
                    return False
        # Parametrized modules have a class of their own.
        as_it_was = module.__class__ is kind and "forward" not in own and own.get("inplace") is in_place
        return as_it_was and not (mode.depth and is_constant(args[0]))

    return takes_signal


def _only_call(call: Call, *args: Any, **kwargs: Any) -> Any:
    return call(*args, **kwargs)
