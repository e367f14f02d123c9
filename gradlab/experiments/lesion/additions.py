"""A mode that sees the additions of a network while it runs, each at its place in the pass."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlab.probes.blocks.numbering import Numbering, Place
from gradlab.probes.blocks.operations import Operand, is_in_place, operands
from gradlab.probes.functions import function_name
from gradlab.probes.hooks import in_backward
from gradlab.probes.passes import Passes


class AdditionMode(TorchFunctionMode):
    """Calls `add` for every addition of a pass, which decides what comes out of it.

    Args:
        model: The network, which is followed by hooks until the stack closes.
        stack: The stack for the hooks.
    """

    def __init__(self, model: nn.Module, stack: ExitStack) -> None:
        super().__init__()
        modules = {name: module for name, module in model.named_modules() if name}
        self._passes = Passes(model, modules, self._begin, lambda whole: None)
        self._passes.attach(stack, {})
        self._numbering = Numbering()

    @abstractmethod
    def add(self, place: Place, pair: tuple[Operand, Operand], compute: Callable[[], Tensor]) -> Tensor:
        """Return the sum of two operands, which `compute` gives, or something in its place."""

    def _begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._numbering = Numbering()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or `add` if it is an addition."""
        kwargs = dict(kwargs or {})
        name = function_name(func)
        pair = None if in_backward() or not self._passes.under_way else operands(func, name, args, kwargs)
        if pair is None:
            return func(*args, **kwargs)
        place = self._numbering.next(*self._passes.running[-1])
        if not is_in_place(name):
            return self.add(place, pair, lambda: func(*args, **kwargs))
        return self._add_in_place(place, pair, func, args, kwargs)

    def _add_in_place(
        self,
        place: Place,
        pair: tuple[Operand, Operand],
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """An addition that is written to its first argument, and so is what stands in its place."""
        done: list[Any] = []

        def compute() -> Tensor:
            done.append(func(*args, **kwargs))
            assert isinstance(done[0], Tensor)
            return done[0]

        value = self.add(place, pair, compute)
        if done:
            return done[0]
        target: Tensor = args[0] if args else kwargs["input"]
        return target if value is target else target.copy_(value)
