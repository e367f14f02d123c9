"""Records every operation of forward passes, backward passes and the optimizer, with its inputs and outputs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradlab.probes.hooks import in_backward
from gradlab.probes.nonfinite.calls import Calls
from gradlab.probes.nonfinite.memory import Memory
from gradlab.probes.nonfinite.naming import Effect, effect_of, node_in_words, own_function
from gradlab.probes.nonfinite.values import Operation, Place, extremes, is_measurable

_DIVISORS = {"div": 1, "reciprocal": 0, "pow": 0, "remainder": 1, "fmod": 1, "addcdiv": 2}
"""For each operation, the argument at whose zeros it is not defined."""

_NOT_THE_USERS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))

_RUNS_THE_MODEL = str(Path(__file__).parent / "find.py")


class Recorder(TorchDispatchMode):
    """A mode that records operations without waiting for the device.

    Args:
        calls: The current place in the model.
        memory: The values in memory.
        began: A function called at the beginning of a backward pass with the forward operation where it begins.

    Attributes:
        paused: Whether operations are not recorded at present.
        scaled: Whether a GradScaler has checked gradients for overflow.
        updating: Whether the backward pass is over and the next forward pass has not begun.
        stepping: The backward pass within which an optimizer makes a step, −1 if outside of any; None between steps.
    """

    def __init__(self, calls: Calls, memory: Memory, began: Callable[[Operation | None], None]) -> None:
        super().__init__()
        self.calls, self.memory = calls, memory
        self.paused = self.updating = self.scaled = False
        self.stepping: int | None = None
        self._began = began
        self._task = -1
        self._last: Operation | None = None

    @contextmanager
    def pausing(self) -> Iterator[None]:
        """A context whose operations are not recorded."""
        before, self.paused = self.paused, True
        try:
            yield
        finally:
            self.paused = before

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operation and record it."""
        kwargs = kwargs or {}
        if self.paused:
            return func(*args, **kwargs)
        effect = effect_of(func)
        self.scaled |= effect.function.startswith("_amp_foreach")
        operation = self._operation(effect, args, kwargs)
        self.calls.note(operation)
        outputs = func(*args, **kwargs)
        self._take_in(effect, operation, args, kwargs, outputs)
        return outputs

    def _operation(self, effect: Effect, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Operation:
        given = dict(zip(effect.positions, args, strict=False)) | dict(kwargs)
        taken = [value for name, value in given.items() if effect.takes or name not in effect.writes]
        leaves = tree_leaves(taken)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        operation = self._located(effect)
        operation.inputs = tuple(self.memory.read(tensor) for tensor in tensors if is_measurable(tensor))
        operation.constant = any(isinstance(leaf, float) and not math.isfinite(leaf) for leaf in leaves)
        operation.passes = effect.passes
        operation.count = tensors[0].numel() if tensors else 0
        divisor = args[_DIVISORS[effect.name]] if len(args) > _DIVISORS.get(effect.name, len(args)) else None
        if isinstance(divisor, Tensor) and divisor.layout is torch.strided:
            operation.zero = (divisor == 0).any()
        elif isinstance(divisor, int | float):
            operation.zero = torch.tensor(divisor == 0)
        return operation

    def _located(self, effect: Effect) -> Operation:
        """The operation, with the place to which it belongs."""
        place = self.calls.place
        node: Node | None = torch._C._current_autograd_node()
        if place.layer is None and in_backward():
            if self.stepping != torch._C._current_graph_task_id():
                return self._backward(effect, node)
            node = None
        stage = "update" if place.layer is None and self.updating else "forward"
        name = effect.name if node is None or place.layer is not None else node_in_words(node)
        return Operation(name, effect.function, stage, place, _line())

    def _backward(self, effect: Effect, node: Node | None) -> Operation:
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self.updating = task, True
            self._began(None if node is None else self.calls.behind(node))
        if node is None:
            # Gradients that reach a tensor on several paths are added between the nodes.
            last = self._last or Operation(effect.name, "", "backward", Place())
            return Operation("sum of gradients", effect.function, "backward", last.place, last.line)
        parameter = getattr(node, "variable", None)
        if parameter is not None:
            place = self.calls.owner(parameter)
            return Operation("sum of gradients", effect.function, "backward", place)
        forward = self.calls.behind(node)
        name = own_function(node) or (node_in_words(node) if forward is None else forward.name)
        place, line = (Place(), None) if forward is None else (forward.place, forward.line)
        self._last = Operation(name, effect.function, "backward", place, line)
        return Operation(name, effect.function, "backward", place, line)

    def _take_in(
        self, effect: Effect, operation: Operation, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Any
    ) -> None:
        given = dict(zip(effect.positions, args, strict=False)) | dict(kwargs)
        written = [leaf for name in effect.writes for leaf in tree_leaves(given.get(name))]
        for tensor in _distinct([*written, *tree_leaves(outputs)]):
            in_place = any(tensor is other for other in written)
            value = self.memory.new(tensor)
            value.maker, value.unset = operation, effect.unset
            if not effect.unset:
                value.extremes = extremes(tensor)
            self.memory.write(tensor, value, in_place=in_place)
        if effect.name == "batch_norm":
            # It changes its running statistics, which its schema does not declare.
            for name in ("running_mean", "running_var"):
                if isinstance(given.get(name), Tensor):
                    self.memory.forget(given[name])


def _distinct(leaves: Iterable[Any]) -> Iterable[Tensor]:
    """The tensors among the leaves that may be non-finite, without repetitions."""
    seen: dict[int, Tensor] = {}
    for leaf in leaves:
        if isinstance(leaf, Tensor) and is_measurable(leaf):
            seen.setdefault(id(leaf), leaf)
    return seen.values()


def _line() -> tuple[str, int] | None:
    """The running line of code outside of torch and the probes; None if a probe itself runs the model."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        if frame.f_code.co_filename == _RUNS_THE_MODEL:
            return None
        frame = frame.f_back  # type: ignore[assignment]
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno)
