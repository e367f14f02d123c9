"""The order in which a model's weights are used."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gradlab.probes.applications import leave
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.running_calls import Arguments, RunningCalls, arguments, frame_of_call
from gradlab.probes.weights import WeightRow


class ExecutionOrder:
    """Records the order in which the rows of a model are first used.

    A layer is recorded when it is called, and any other parameter when a function of torch receives it, during the
    first forward pass of the whole model. Each hook is removed after its first call, so later passes cost nothing.

    Args:
        model: The root module.
        rows: The rows by name, as returned by `weight_rows`.
    """

    def __init__(self, model: nn.Module, rows: Mapping[str, WeightRow]) -> None:
        self.model, self.rows = model, rows
        self.seen: dict[str, None] = {}
        self._by_module: dict[str, list[WeightRow]] = {}
        owners: dict[int, list[str]] = {}
        for row in rows.values():
            self._by_module.setdefault(row.module, []).append(row)
            for part in row.parts:
                owners.setdefault(id(part.parameter), []).append(row.name)
        self._uses = _Uses(owners, self.seen)
        self._calls = RunningCalls(self._stop)
        self._handles: list[RemovableHandle] = []
        self._done = False

    def __len__(self) -> int:
        """Return the number of rows that were used."""
        return len(self.seen)

    def attach(self, stack: ExitStack) -> None:
        """Register the hooks, and their removal on the stack."""
        if not self._done:
            stack.callback(self._stop)
            start = stack.enter_context(self.model.register_forward_pre_hook(Hook(self._start), with_kwargs=True))
            stop = stack.enter_context(self.model.register_forward_hook(Hook(self._end), always_call=True))
            self._handles = [start, stop]
        for name, rows in self._by_module.items():
            module = self.model.get_submodule(name)
            if any(row.name not in self.seen for row in rows) and not isinstance(module, torch.jit.ScriptModule):
                _once(stack, module, self._notice(name))

    def ordered(self) -> list[str]:
        """Return the names of the rows: the used ones in order of first use, then the others."""
        return [*self.seen, *(name for name in self.rows if name not in self.seen)]

    def _start(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        # A mode would be seen in the first graph that torch.jit.trace records, and not in those it compares with it.
        if (
            torch.compiler.is_compiling()
            or torch._C._get_tracing_state() is not None
            or in_backward()
            or self._calls.go_on()
        ):
            return None
        call = self._calls.begin_call("", frame_of_call(sys._getframe(1)))
        self._uses.__enter__()
        return arguments(args, kwargs, self._calls, call)

    def _end(self, module: nn.Module, args: Any, output: Any) -> None:
        # A mode belongs to a thread, and another thread may run the model as well.
        if not torch.compiler.is_compiling() and self._calls.calls and self._calls.thread == threading.get_ident():
            if self._calls.calls[-1].frame not in (None, frame_of_call(sys._getframe(1))):
                # The model has called itself.
                return
            whole = self._calls.calls.pop().exception is sys.exc_info()[1]
            self._stop()
            if whole:
                self._done = True
                for handle in self._handles:
                    handle.remove()

    def _stop(self) -> None:
        self._calls.calls.clear()
        leave(self._uses)

    def _notice(self, name: str) -> Callable[[], None]:
        def notice() -> None:
            for row in self._by_module[name]:
                # Where uses of parameters are watched, they are more precise than the call of the enclosing module.
                if row.name == name or not self._calls.calls:
                    self.seen.setdefault(row.name)

        return notice


class _Uses(TorchFunctionMode):
    """Records the rows of parameters in the order in which functions of torch receive them."""

    def __init__(self, owners: Mapping[int, list[str]], seen: dict[str, None]) -> None:
        super().__init__()
        self.owners, self.seen = owners, seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function of torch and record its parameters."""
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            # Separate projections of query, key and value are its last arguments, so they are recorded first.
            self._look([kwargs.get(f"{use}_proj_weight") for use in ("q", "k", "v")])
        self._look(args)
        self._look(kwargs.values())
        return func(*args, **kwargs)

    def _look(self, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, list | tuple):
                self._look(value)
            elif isinstance(value, nn.Parameter):
                rows = self.owners.get(id(value), ())
                # If two layers share a weight, the call of each layer determines its place.
                if len(rows) == 1 or not any(row in self.seen for row in rows):
                    for row in rows:
                        self.seen.setdefault(row)


def _once(stack: ExitStack, module: nn.Module, function: Callable[[], None]) -> None:
    """Call a function before the first forward pass of a module."""
    handles: list[RemovableHandle] = []

    def hook(module: nn.Module, args: Any) -> None:
        for handle in handles:
            handle.remove()
        function()

    handles.append(module.register_forward_pre_hook(Hook(hook)))
    stack.enter_context(handles[0])
