"""Tracking of forward passes through hooks: which modules run, in which pass, and whether the pass completes."""

from __future__ import annotations

import sys
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.probes.direct_calls import Call, refuse_replica
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.running_calls import Arguments, RunningCalls, arguments, frame_of_call
from gradlab.probes.streams import StreamOrder

After = Callable[[nn.Module, Any], None]

unseen = torch._C.DisableTorchFunction
"""A context in which function modes of other users do not see what a probe does."""


def check_thread(model: nn.Module, thread: int) -> None:
    """Raise an error if this is another thread than the one in which a model runs."""
    if threading.get_ident() != thread:
        raise GradlabError(
            f"{type(model).__name__} runs in two threads at once, whose calls cannot be distinguished: run one after "
            "the other, or a copy of the model in each"
        )


class Passes(RunningCalls):
    """Follows the calls of a model, or of its parts if they are called on their own.

    A pass is an outermost call of the model or of a part of it. Calls of a layer are counted within a pass. A pass
    that ends in an exception is not counted, nor is recomputation by activation checkpointing in the backward pass.

    A call that an exception such as Ctrl-C has ended, after which torch calls no hook, is forgotten as soon as this is
    noticed (see `gradlab.probes.running_calls`).

    Args:
        model: The root module.
        modules: The modules whose calls are followed, by name.
        begin: A function called before each pass with the name of the called module and its arguments.
        end: A function called after each pass with whether it completed.

    Attributes:
        recomputed: Names of the modules that ran again in a backward pass.
        counts: The number of calls within the pass so far, by name.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: dict[str, nn.Module],
        begin: Callable[[str, tuple[Any, ...], dict[str, Any]], None],
        end: Callable[[bool], None],
    ) -> None:
        super().__init__(lambda: self._finish(False))
        self.model = model
        self.modules = {"": model, **modules}
        self.recomputed: set[str] = set()
        self.counts: Counter[str] = Counter()
        self._begin, self._end = begin, end
        self._order = StreamOrder()
        self._after: dict[str, After] = {}
        self._first: list[tuple[nn.Module, RemovableHandle]] = []
        self._last: list[tuple[nn.Module, RemovableHandle]] = []
        # The id that the next hook anywhere would have had when hooks were last put in place.
        self._registered = -1

    def attach(self, stack: ExitStack, after: dict[str, After]) -> None:
        """Register the hooks, and their removal on the stack.

        Args:
            stack: The stack for the handles.
            after: Functions called with a module and its output, after all hooks of other users, by module name.
        """
        self._after = after
        stack.callback(self._leave)
        for name, module in self.modules.items():
            if not isinstance(module, torch.jit.ScriptModule):
                before, behind = Hook(self._before(name)), Hook(self._behind(name))
                self.keep_first(stack, module, module.register_forward_pre_hook(before, prepend=True, with_kwargs=True))
                self.keep_last(stack, module, module.register_forward_hook(behind, always_call=True))

    def keep_first(self, stack: ExitStack, module: nn.Module, handle: RemovableHandle) -> None:
        """Keep a forward-pre hook before those of other users."""
        self._first.append((module, stack.enter_context(handle)))

    def keep_last(self, stack: ExitStack, module: nn.Module, handle: RemovableHandle) -> None:
        """Keep a forward hook after those of other users."""
        self._last.append((module, stack.enter_context(handle)))

    @property
    def under_way(self) -> bool:
        """Whether a pass is running."""
        return bool(self.calls)

    @property
    def innermost(self) -> str:
        """Name of the innermost module that is being called, of those that are followed."""
        return self.calls[-1].name if self.calls else ""

    @property
    def running(self) -> list[tuple[str, int]]:
        """The modules that are being called, outermost first, each with a number that no other call has."""
        return [(call.name, call.number) for call in self.calls]

    def is_running(self, name: str) -> bool:
        """Return whether a module is being called."""
        return any(call.name == name for call in self.calls)

    def count(self, name: str) -> int:
        """Return the number of this call within the pass, counted from 1."""
        self.counts[name] += 1
        return self.counts[name]

    def call(self, name: str, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a module of the pass under way as its hooks do, of which it has none at present."""
        depth = len(self.calls)
        self.begin_call(name, sys._getframe())
        try:
            return call(*args, **kwargs)
        finally:
            # A probe that was detached during the call has forgotten them all.
            del self.calls[depth:]

    def check_thread(self) -> None:
        """Raise an error if another thread than that of the pass calls a module."""
        check_thread(self.model, self.thread)

    def kept(self) -> dict[nn.Module, tuple[list[RemovableHandle], list[RemovableHandle]]]:
        """Return the handles of the hooks that are kept first, and of those that are kept last, by module."""
        found: dict[nn.Module, tuple[list[RemovableHandle], list[RemovableHandle]]] = {}
        for place, handles in enumerate((self._first, self._last)):
            for module, handle in handles:
                found.setdefault(module, ([], []))[place].append(handle)
        return found

    def _before(self, name: str) -> Callable[[nn.Module, Any, Any], Arguments | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
            if in_backward():
                self.recomputed.add(name)
                return None
            self.forget_ended()
            if self.calls:
                self.check_thread()
            else:
                refuse_replica(module)
                self.thread = threading.get_ident()
                self.counts.clear()
                self._take_places()
                with unseen():
                    self._order.begin()
                    self._begin(name, args, kwargs)
            call = self.begin_call(name, frame_of_call(sys._getframe(1)) or sys._getframe(1))
            return arguments(args, kwargs, self, call)

        return hook

    def _behind(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if in_backward() or not self.calls:
                return
            frame = frame_of_call(sys._getframe(1)) or sys._getframe(1)
            if self.calls[-1].frame is not frame:
                self.forget_ended()
                if not self.calls or self.calls[-1].frame is not frame:
                    return
            whole = self.calls[-1].exception is sys.exc_info()[1]
            try:
                if whole and name in self._after:
                    with unseen():
                        self._after[name](module, output)
            except BaseException:
                whole = False
                raise
            finally:
                if self.calls:
                    self.calls.pop()
                    if not self.calls:
                        with unseen():
                            self._finish(whole)

        return hook

    def _leave(self) -> None:
        if self.calls:
            self.calls.clear()
            self._finish(False)

    def _finish(self, whole: bool) -> None:
        try:
            self._end(whole)
        finally:
            self._order.end()

    def _take_places(self) -> None:
        """Move hooks to the front or back again, if other users have registered hooks in the meantime."""
        if self._registered == RemovableHandle.next_id:
            return
        self._registered = RemovableHandle.next_id
        for module, handle in self._first:
            hooks = cast("OrderedDict[int, Any]", module._forward_pre_hooks)
            if handle.id in hooks and next(iter(hooks)) != handle.id and _strangers(hooks.items(), handle.id):
                hooks.move_to_end(handle.id, last=False)
        for module, handle in self._last:
            hooks = cast("OrderedDict[int, Any]", module._forward_hooks)
            if (
                handle.id in hooks
                and next(reversed(hooks)) != handle.id
                and _strangers(reversed(hooks.items()), handle.id)
            ):
                hooks.move_to_end(handle.id)


def _strangers(hooks: Iterable[tuple[int, Any]], own: int) -> bool:
    """Return whether a hook of another user comes before our own."""
    for number, hook in hooks:
        if number == own:
            return False
        if not isinstance(hook, Hook):
            return True
    return False
