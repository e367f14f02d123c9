"""The places of a model at which its responses may be read: inputs and outputs of modules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from gradlab.probes.hooks import Hook, RefusingHook, in_backward
from gradlab.probes.targets import Targets, is_normalization

_TABLES = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)

Marked = Callable[[int, Tensor], Tensor | None]
"""A function called with the number of a mark and the tensor that has passed it; what it returns takes its place."""


class Mark(NamedTuple):
    """The input or the output of a module, which other users' hooks have not seen yet or have all seen."""

    module: str
    is_input: bool


def marks_of(model: nn.Module, targets: Targets, blocks: Iterable[str] = ()) -> list[Mark]:
    """List outputs of targets, normalizations and blocks, and inputs of normalizations and of their parts."""
    norms = {
        name: module
        for name, module in model.named_modules()
        if is_normalization(module) and not isinstance(module, torch.jit.ScriptModule)
    }
    own = [name for name, target in targets.chosen.items() if target.module is not None]
    parts = [f"{name}.{child}" if name else child for name, norm in norms.items() for child, _ in norm.named_children()]
    outputs = [Mark(name, is_input=False) for name in dict.fromkeys([*own, *norms, *blocks])]
    return [*outputs, *(Mark(name, is_input=True) for name in dict.fromkeys([*norms, *parts]))]


def watch_marks(model: nn.Module, marks: list[Mark], marked: Marked, stack: ExitStack) -> None:
    """Call a function at every mark, outside of backward passes, until the stack is closed."""
    for number, mark in enumerate(marks):
        module = model.get_submodule(mark.module)
        if mark.is_input:
            before = Hook(_input_hook(number, marked, is_traced=False))
            stack.enter_context(module.register_forward_pre_hook(before, prepend=True))
        else:
            stack.enter_context(module.register_forward_hook(Hook(_output_hook(number, marked, is_traced=False))))


class TracedMarks:
    """Hooks at marks for the time in which a model may be traced, in place of a probe's own.

    Args:
        model: The model.
        marks: The marks.
        marked: A function that is traced at every mark.
    """

    def __init__(self, model: nn.Module, marks: list[Mark], marked: Marked) -> None:
        self.model = model
        self._before: dict[str, Any] = {}
        self._behind: dict[str, Any] = {}
        for number, mark in enumerate(marks):
            kind, hook = (self._before, _input_hook) if mark.is_input else (self._behind, _output_hook)
            kind[mark.module] = hook(number, marked, is_traced=True)
        self._registered = -1
        self._replaced: list[tuple[OrderedDict[int, Any], list[Any], list[Any]]] = []

    def prepare(self, own: range) -> bool:
        """Look at the hooks of the model, and return whether those of other probes are not among them.

        Args:
            own: The numbers of the handles of the probe.
        """
        if self._registered == RemovableHandle.next_id and all(len(t) == len(was) for t, was, _ in self._replaced):
            return True
        self._replaced = []
        for name, module in self.model.named_modules():
            for table in _TABLES:
                hooks: OrderedDict[int, Any] = getattr(module, table)
                theirs = [(n, hook) for n, hook in hooks.items() if n not in own and not isinstance(hook, RefusingHook)]
                if any(isinstance(hook, Hook) for _, hook in theirs):
                    self._registered = -1
                    return False
                # No handle has a negative number.
                if table == "_forward_pre_hooks" and name in self._before:
                    theirs.insert(0, (-1, self._before[name]))
                elif table == "_forward_hooks" and name in self._behind:
                    theirs.append((-2, self._behind[name]))
                if theirs != [*hooks.items()]:
                    self._replaced.append((hooks, [*hooks.items()], theirs))
        self._registered = RemovableHandle.next_id
        return True

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Have the hooks on the model, and those of the probe not."""
        try:
            for hooks, _, instead in self._replaced:
                hooks.clear()
                hooks.update(instead)
            yield
        finally:
            for hooks, before, _ in self._replaced:
                hooks.clear()
                hooks.update(before)


def _input_hook(number: int, marked: Marked, is_traced: bool) -> Callable[..., tuple[Any, ...] | None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if args and isinstance(args[0], Tensor) and (is_traced or not in_backward()):
            instead = marked(number, args[0])
            return None if instead is None else (instead, *args[1:])
        return None

    return hook


def _output_hook(number: int, marked: Marked, is_traced: bool) -> Callable[..., Tensor | None]:
    def hook(module: nn.Module, args: Any, output: Any) -> Tensor | None:
        if isinstance(output, Tensor) and (is_traced or not in_backward()):
            return marked(number, output)
        return None

    return hook
