"""Tracking of forward passes for `ExampleGradients`: the outermost calls, and their outputs by example."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gradlab.errors import GradlabError
from gradlab.probes.hooks import Hook
from gradlab.probes.outputs import refuse_nested
from gradlab.probes.running_calls import Arguments, RunningCalls, arguments, frame_of_call


class ForwardWatch(RunningCalls):
    """Follows the calls of a model, or of its parts if they are called on their own.

    Args:
        model: The root module.
        watching: A function that returns whether the current call is to be followed.
        begin: A function called with the outermost module, the number of examples and its input tensors.
        end: A function called when that module returns, with the outputs that have a row for each example, and
            whether they are its own. If it has none, as when the model computes its loss, they are those of the
            modules that it called, in order of execution.
        undo: A function called instead if an exception has ended the call.
    """

    def __init__(
        self,
        model: nn.Module,
        watching: Callable[[], bool],
        begin: Callable[[nn.Module, int, list[Tensor]], None],
        end: Callable[[list[Tensor], bool], None],
        undo: Callable[[], None],
    ) -> None:
        super().__init__(undo)
        self.model, self.watching, self.begin, self.end, self.undo = model, watching, begin, end, undo
        # The module of a call, and the outputs of those that it has called so far, by the call's number.
        self._inner: dict[int, tuple[nn.Module, list[Tensor]]] = {}
        self._examples = 0

    def attach(self, stack: ExitStack) -> None:
        """Register hooks on every module that supports them, and their removal on the stack."""
        stack.callback(self.calls.clear)
        for module in self.model.modules():
            if hasattr(module, "_c"):
                continue  # A scripted module runs no hooks.
            before, after = Hook(self._before), Hook(self._after)
            # The hooks precede others, such as those that compute a weight.
            stack.enter_context(module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
            stack.enter_context(module.register_forward_hook(after, prepend=True, always_call=True))

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
        if not self.watching():
            return None
        self.forget_ended()
        if not self.calls:
            self._inner.clear()
            self._begin(module, args, kwargs)
        elif self.thread != threading.get_ident():
            raise GradlabError(
                f"{type(self.model).__name__} is run in two threads at once: example gradients are measured in one; "
                "give each thread a copy of the model, or run them one after the other"
            )
        call = self.begin_call("", frame_of_call(sys._getframe(1)))
        self._inner[call.number] = module, []
        return arguments(args, kwargs, self, call)

    def _begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        refuse_nested(tensors, "gradients of single examples")
        examples = next((len(tensor) for tensor in tensors if tensor.ndim), None)
        if not examples:
            given = "an empty batch" if examples == 0 else "no tensor with a first dimension"
            raise GradlabError(
                f"{type(module).__name__} was given {given}: how many examples there are cannot be told; leave "
                "the pass out, or give the model a batch of at least one example"
            )
        self._examples = examples
        self.begin(module, examples, tensors)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        frame = frame_of_call(sys._getframe(1))
        if frame is not None and self.calls and self.calls[-1].frame is not frame:
            self.forget_ended()
        if not self.calls or self._inner[self.calls[-1].number][0] is not module:
            return
        if frame is not None and self.calls[-1].frame not in (None, frame):
            # The module calls itself, where it is not watched.
            return
        call = self.calls.pop()
        whole = call.exception is sys.exc_info()[1]
        _, inner = self._inner.pop(call.number)
        rows = self._rows(output)
        if self.calls:
            self._inner[self.calls[-1].number][1].extend(rows or inner)
        elif whole:
            self.end(rows or inner, bool(rows) or output is None)
        else:
            self.undo()

    def _rows(self, output: Any) -> list[Tensor]:
        """Return the outputs that have a row for each example and a graph."""
        leaves = [output] if isinstance(output, Tensor) else tree_leaves(output)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        # The mode that finds uses of parameters would intercept every look at a tensor.
        with torch._C.DisableTorchFunction():
            return [x for x in tensors if x.grad_fn is not None and x.ndim and len(x) == self._examples]
