"""The steps of optimizers, as their own hooks tell of them: no call in the training loop is needed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradlab.errors import UsageError
from gradlab.probes.hooks import Hook


def unwrapped(optimizers: Optimizer | Iterable[Optimizer]) -> list[Optimizer]:
    """The optimizers inside what other libraries wrap them in, each once.

    Raises:
        UsageError: For anything else, and for none.
    """
    given = [optimizers] if isinstance(optimizers, Optimizer) or hasattr(optimizers, "param_groups") else optimizers
    if not isinstance(given, Iterable):
        raise UsageError(f"watch takes an optimizer or a list of them, not {type(optimizers).__name__}")
    found: list[Optimizer] = []
    for optimizer in given:
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        if not isinstance(optimizer, Optimizer):
            raise UsageError(
                f"watch takes optimizers of torch.optim or derived from them, not {type(optimizer).__name__}"
            )
        if not hasattr(optimizer, "_optimizer_step_pre_hooks"):
            raise UsageError(
                f"{type(optimizer).__name__} has not called the __init__ of torch.optim.Optimizer, so that its steps "
                "call no hooks: give watch the optimizer that it wraps"
            )
        if not any(optimizer is other for other in found):
            found.append(optimizer)
    if not found:
        raise UsageError("watch needs at least one optimizer: its steps are what is measured")
    return found


class OptimizerSteps:
    """Tells of every step of some optimizers, when its gradients are there and when it has been made.

    A step that is given a closure has its gradients after the closure's first call. A step that a GradScaler skips is
    none.

    Args:
        optimizers: As of `unwrapped`.
        before: Called with an optimizer's place among them when it is about to change the weights.
        after: Called with it after each step.
    """

    def __init__(
        self, optimizers: list[Optimizer], before: Callable[[int], None], after: Callable[[int], None]
    ) -> None:
        self.optimizers = optimizers
        self._before, self._after = before, after

    def attach(self, stack: ExitStack) -> None:
        """Register the hooks, their removal on the stack."""
        for place, optimizer in enumerate(self.optimizers):
            stack.enter_context(optimizer.register_step_pre_hook(Hook(self._pre(place))))
            stack.enter_context(optimizer.register_step_post_hook(Hook(self._post(place))))

    def _pre(self, place: int) -> Callable[..., Any]:
        def hook(optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
            if not callable(closure):
                self._before(place)
                return None
            told = _Once(closure, lambda: self._before(place))
            if "closure" in kwargs:
                return args, {**kwargs, "closure": told}
            return (args[0], told, *args[2:]), kwargs

        return hook

    def _post(self, place: int) -> Callable[..., Any]:
        return lambda optimizer, args, kwargs: self._after(place)


class _Once:
    """A closure after whose first call something is to be done."""

    def __init__(self, closure: Callable[[], Any], then: Callable[[], None]) -> None:
        self.closure, self.then = closure, then
        self.called = False

    def __call__(self) -> Any:
        result = self.closure()
        if not self.called:
            self.called = True
            self.then()
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.closure, name)


def calling_scaler() -> GradScaler | None:
    """The GradScaler whose `step` this is called within; None where there is none, or it is off."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is GradScaler.step.__code__:
            scaler = frame.f_locals.get("self")
            return scaler if isinstance(scaler, GradScaler) and scaler.is_enabled() else None
    return None


def scale_of(scaler: GradScaler | None, device: torch.device) -> torch.Tensor | None:
    """What a scaler has multiplied the loss by, as a tensor: asking for a number waits for the device."""
    if scaler is None or not scaler.is_enabled():
        return None
    scale: torch.Tensor = scaler.scale(torch.ones((), device=device))
    return scale if device.type == "mps" else scale.double()
