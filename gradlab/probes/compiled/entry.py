"""Where calls of a compiled model enter compiled code, and how that was compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradlab.probes.direct_calls import is_direct
from gradlab.probes.hooks import is_compiled, unwrap

_IN_PLACE = "_compiled_call_impl"
"""The attribute in which `nn.Module.compile` keeps a call."""


class CannotCompile(Exception):
    """Says in half a sentence why a model is not measured in compiled code."""


@dataclass(eq=False)
class Entry:
    """The attribute that holds the compiled call of a model.

    Other probes may be attached at the same time and have entries of the same attribute: what takes the place of an
    entry calls what was there before it.

    Attributes:
        owner: The module that has the attribute, or is to have it where something around the model is compiled.
        name: Its name.
        call: What is called with the arguments of the model: its own call, or what another probe has put there.
        is_there: Whether the model's own call is the value of the attribute.
        backend: What compiles graphs.
        dynamic: Whether sizes are symbols, as in `torch.compile`.
    """

    owner: nn.Module
    name: str
    call: Callable[..., Any]
    is_there: bool
    backend: Callable[..., Any]
    dynamic: bool | None

    @contextmanager
    def taken_by(self, call: Callable[..., Any]) -> Iterator[None]:
        """Have a call, which has this entry as its own, in this place; those of several may leave in any order."""
        place, own = vars(self.owner), self.call
        self.call = place.get(self.name) or own
        place[self.name] = call
        try:
            yield
        finally:
            above = next((entry for entry in _entries(place.get(self.name)) if entry.call is call), None)
            if above is not None:
                above.call = self.call
            elif place.get(self.name) is call:
                place[self.name] = self.call
                if self.call == own and not self.is_there:
                    del place[self.name]
            self.call = own


def entry_of(model: nn.Module) -> Entry:
    """Return the entry of a model that was compiled as a whole, by `torch.compile` or its own `compile`.

    `DistributedDataParallel` may lie around it or between the model and what was compiled: torch runs its own code
    eagerly and compiles that of the model in it.

    Raises:
        CannotCompile: If it was not.
    """
    around, inner = [*_wrappers(model)], unwrap(model)
    compiled = [module for module in [*around, inner] if _is_wrapper(module) or _compiled_in_place(module)]
    if any(type(module).__name__ == "DataParallel" for module in around):
        raise CannotCompile("DataParallel runs copies of it")
    if len(compiled) != 1:
        raise CannotCompile("parts of it are compiled, or it is compiled twice")
    (owner,) = compiled
    if any(is_compiled(module) and not _is_only_taken(module) for module in inner.modules() if module is not owner):
        raise CannotCompile("parts of it are compiled on their own")
    if owner is inner or (_is_wrapper(owner) and owner._orig_mod is inner):
        name = _IN_PLACE if owner is inner else "forward"
        where = (owner, name, _own_call(owner, name), True)
    else:
        where = (inner, _IN_PLACE, inner._call_impl, False)
    context = owner.dynamo_ctx if _is_wrapper(owner) else _context_of(_own_call(owner, _IN_PLACE))
    backend: Any = getattr(context, "callback", None)
    while (inside := _inside(backend)) is not None:
        backend = inside
    if not callable(backend) or not callable(where[2]):
        raise CannotCompile("this version of torch does not say how it was compiled")
    return Entry(*where, backend, getattr(context, "_dynamic", None))  # type: ignore[arg-type]


def _wrappers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield what lies around a model, the outermost first."""
    inner = unwrap(model)
    while model is not inner:
        yield model
        model = model._orig_mod if _is_wrapper(model) else model.module  # type: ignore[assignment]


def _is_wrapper(module: nn.Module) -> bool:
    """Return whether `torch.compile` has made a module."""
    return type(module).__name__ == "OptimizedModule"


def _compiled_in_place(module: nn.Module) -> bool:
    call = vars(module).get(_IN_PLACE)
    return call is not None and not is_direct(call) and not _is_only_taken(module)


def _is_only_taken(module: nn.Module) -> bool:
    """Return whether only probes have put a call in the place for that of a compiled module."""
    entries = [*_entries(vars(module).get(_IN_PLACE))]
    return bool(entries) and not entries[-1].is_there


def _entries(call: Any) -> Iterator[Entry]:
    """Yield the entries of the probes that have taken a place in which a call is, the last to come first."""
    while isinstance(entry := getattr(call, "entry", None), Entry):
        yield entry
        call = entry.call


def _own_call(module: nn.Module, name: str) -> Any:
    """Return the call that an attribute has when no probe is attached."""
    call = vars(module).get(name)
    return [call, *(entry.call for entry in _entries(call))][-1]


def _inside(callback: Any) -> Any:
    """Return what a callback of torch's tracer calls; older versions have another name for it."""
    names = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")
    return next((getattr(callback, name) for name in names if hasattr(callback, name)), None)


def _context_of(call: Any) -> Any:
    """Return the object that holds what `torch.compile` was given, which its function knows as `self`, if it does."""
    names, cells = getattr(getattr(call, "__code__", None), "co_freevars", ()), getattr(call, "__closure__", None)
    return next((cell.cell_contents for name, cell in zip(names, cells or (), strict=True) if name == "self"), None)
