"""Where calls of a compiled model enter compiled code, and how that was compiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from gradlab.probes.hooks import is_compiled, unwrap


class CannotCompile(Exception):
    """Says in half a sentence why a model is not measured in compiled code."""


@dataclass(frozen=True, eq=False)
class Entry:
    """The attribute that holds the compiled call of a model.

    Attributes:
        owner: The module that has the attribute.
        name: Its name.
        call: Its value, which is called with the arguments of the model.
        backend: What compiles graphs.
        dynamic: Whether sizes are symbols, as in `torch.compile`.
    """

    owner: nn.Module
    name: str
    call: Callable[..., Any]
    backend: Callable[..., Any]
    dynamic: bool | None


def entry_of(model: nn.Module) -> Entry:
    """Return the entry of a model that was compiled as a whole, by `torch.compile` or its own `compile`.

    Raises:
        CannotCompile: If it was not.
    """
    inner = unwrap(model)
    if type(model).__name__ == "OptimizedModule" and model._orig_mod is inner:
        owner, name, context = model, "forward", getattr(model, "dynamo_ctx", None)
    elif model is inner and model._compiled_call_impl is not None:
        owner, name, context = model, "_compiled_call_impl", _context_of(model._compiled_call_impl)
    else:
        raise CannotCompile("parts of it are compiled, or a wrapper around it")
    if any(is_compiled(module) for module in inner.modules() if module is not owner):
        raise CannotCompile("parts of it are compiled on their own")
    backend: Any = getattr(context, "callback", None)
    while (inside := _inside(backend)) is not None:
        backend = inside
    if not callable(backend) or name not in vars(owner):
        raise CannotCompile("this version of torch does not say how it was compiled")
    return Entry(owner, name, vars(owner)[name], backend, getattr(context, "_dynamic", None))


def _inside(callback: Any) -> Any:
    """Return what a callback of torch's tracer calls; older versions have another name for it."""
    names = ("_torchdynamo_orig_backend", "_torchdynamo_orig_callable")
    return next((getattr(callback, name) for name in names if hasattr(callback, name)), None)


def _context_of(call: Any) -> Any:
    """Return the object that holds what `torch.compile` was given, which its function knows as `self`."""
    names, cells = call.__code__.co_freevars, call.__closure__ or ()
    return next((cell.cell_contents for name, cell in zip(names, cells, strict=True) if name == "self"), None)
