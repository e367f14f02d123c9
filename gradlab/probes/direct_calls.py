"""Calls of a model's parts without hooks.

Torch's way to call a module with hooks is long: at every layer it takes as much time as the work of a probe. Between
passes that are alike, the parts of a model can do without, since `nn.Module.__call__` hands over to
`_compiled_call_impl`, where `nn.Module.compile` puts a function. The one that is put there does what the hooks do,
around the whole call with all hooks of other users. Copied and pickled modules never have it.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradlab.errors import GradlabError
from gradlab.probes.recording import refuse_scripting

Call = Callable[..., Any]

_PLACE = "_compiled_call_impl"
_METHODS = {name: getattr(nn.Module, name, None) for name in ("__call__", "_call_impl", "__getstate__", "__copy__")}


class DirectCall(partial[Any]):
    """A function in the place of a module's own, of which a copied or pickled module has nothing.

    It is a partial function without arguments, which calls its function without a frame of its own.
    """

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


@contextmanager
def called_within(module: nn.Module, context: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Have each call of a module made in a context, which is left whatever ends the call.

    Args:
        module: The module.
        context: A function that makes a context for each call; of several, the last one's is left first.
    """
    own = vars(module)
    there = own.get(_PLACE)
    call = there if isinstance(there, _CallWithin) else _CallWithin(there or module._call_impl)
    own[_PLACE] = call
    call.contexts.append(context)
    try:
        yield
    finally:
        call.contexts.remove(context)
        if not call.contexts and own.get(_PLACE) is call:
            del own[_PLACE]
            if call.call != module._call_impl:
                own[_PLACE] = call.call


class _CallWithin:
    """A call of a module in contexts, in the place of a module's own, of which a copied or pickled one has nothing."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.contexts: list[Callable[[], AbstractContextManager[object]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        refuse_replica(sys._getframe(1).f_locals.get("self"))
        with ExitStack() as stack:
            for context in self.contexts:
                stack.enter_context(context())
            return self.call(*args, **kwargs)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Its class; what would compile its source asks for that, and is refused.

        Raises:
            GradlabError: If `torch.jit` asks.
        """
        refuse_scripting()
        return _CallWithin

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


class _Part(NamedTuple):
    """A module's attributes, what is called in its place, and its hooks: table, number, and whether it is first."""

    own: dict[str, Any]
    call: Call
    hooks: list[tuple[OrderedDict[int, Any], int, bool]]


class DirectCalls:
    """Replaces hooks by functions, from the beginning of one pass until something else is to be done.

    Attributes:
        active: Whether they are replaced.
    """

    def __init__(self) -> None:
        self.active = False
        self._parts: list[_Part] = []
        self._replaced: list[_Part] = []
        self._taken: list[tuple[OrderedDict[int, Any], int, bool, Any]] = []
        self._had_compiler = "torch._dynamo" in sys.modules

    def add(
        self, module: nn.Module, call: Call, first: Iterable[RemovableHandle], last: Iterable[RemovableHandle]
    ) -> None:
        """Add a part of the model, unless its class has a way of its own to be called or copied.

        Args:
            module: The part.
            call: What is called in its place, with its arguments.
            first: Its forward-pre hooks, which come before those of other users.
            last: Its forward hooks, which come after those of other users.
        """
        if _is_usual(type(module)):
            before, behind = (
                cast("OrderedDict[int, Any]", each) for each in (module._forward_pre_hooks, module._forward_hooks)
            )
            hooks = [*((before, each.id, True) for each in first), *((behind, each.id, False) for each in last)]
            self._parts.append(_Part(vars(module), DirectCall(call), hooks))

    def start(self) -> None:
        """Replace the hooks, unless something takes part in how modules are called, such as tracing.

        Function modes of other users would see what the functions do in place of hooks. Hooks of all modules change
        inputs before the hooks see them, but only after what would replace these does. A module in whose place others
        have put a function keeps its hooks.
        """
        self.stop()
        # Code that is compiled from here on would take what it finds in a module for a part of the model.
        compiles = ("torch._dynamo" in sys.modules) is not self._had_compiler
        if (
            compiles
            or torch._C._get_tracing_state() is not None
            or torch.nn.modules.module._global_forward_pre_hooks
            or not _is_usual(nn.Module)
            or _is_looked_at()
        ):
            return
        self.active = True
        for part in self._parts:
            if part.own.get(_PLACE) is None:
                self._replaced.append(part)
                part.own[_PLACE] = part.call
                for table, number, first in part.hooks:
                    if (hook := table.pop(number, None)) is not None:
                        self._taken.append((table, number, first, hook))

    def stop(self) -> None:
        """Put the hooks back."""
        taken, self._taken = self._taken, []
        replaced, self._replaced = self._replaced, []
        self.active = False
        for own, call, _ in replaced:
            if own.get(_PLACE) is call:
                del own[_PLACE]
        for table, number, first, hook in taken:
            table[number] = hook
            if first:
                table.move_to_end(number, last=False)


def refuse_replica(module: object) -> None:
    """Raise an error if a module is a copy that `DataParallel` has made."""
    if getattr(module, "_is_replica", False):
        raise GradlabError(
            "DataParallel runs copies of the model in several threads, whose calls cannot be distinguished: probe it "
            "on one device, or use DistributedDataParallel"
        )


def is_direct(call: object) -> bool:
    """Return whether a module's function is one that a probe has put there, in the place of none."""
    if isinstance(call, _CallWithin):
        return not hasattr(call.call, "_torchdynamo_orig_callable")
    return isinstance(call, DirectCall)


def _is_looked_at() -> bool:
    """Return whether a function mode is active that is neither torch's nor a probe's."""
    if not torch._C._len_torch_function_stack():
        return False
    owners = {type(mode).__module__.split(".")[0] for mode in torch.overrides._get_current_function_mode_stack()}
    return not owners <= {"torch", "gradlab"}


def _is_usual(kind: type[nn.Module]) -> bool:
    return all(getattr(kind, name, None) is method for name, method in _METHODS.items())
