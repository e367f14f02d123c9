"""Hooks, and probes that attach them to a model and remove them without a trace."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.capture import refuse_captured_pass
from gradlab.probes.direct_calls import is_direct
from gradlab.probes.ranks import Ranks
from gradlab.probes.recording import refuse_recording, refuse_scripting


def _do_nothing(*args: Any) -> None:
    """What a hook of a copy does."""


class Hook(partial[Any]):
    """A hook that belongs to one model; a copied or pickled model has one that does nothing.

    It is a partial function without arguments, which calls its function without a frame of its own.
    """

    def __new__(cls, function: Callable[..., Any] = _do_nothing) -> Hook:
        """Make a hook of a function."""
        return super().__new__(cls, function)

    @property
    def __name__(self) -> str:
        """A hook has no name; what would compile its source asks for one, and is refused.

        Raises:
            GradlabError: If `torch.jit` asks.
            AttributeError: If anything else does.
        """
        refuse_scripting()
        raise AttributeError("a hook has no name")

    def __deepcopy__(self, memo: dict[int, Any]) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


class RefusingHook(Hook):
    """A hook that measures nothing, and refuses what records the model."""


def in_backward() -> bool:
    """Return whether autograd is running a backward pass, during which any forward pass is a recomputation.

    Activation checkpointing recomputes in the backward pass. torch's own flop counter and module tracker call the
    same private function, as there is no public one.
    """
    return bool(torch._C._current_graph_task_id() != -1)


def keep_freed_memory() -> None:
    """Make glibc retain about 60 MiB of freed CPU memory instead of returning it to the system.

    Its threshold is twice the largest block freed so far, among blocks of up to 32 MiB. If a training step frees only
    smaller blocks, the next operation allocates its memory page by page; a probe's small tensors in between increase
    this cost to a tenth of a step.
    """
    torch.empty(31 << 20, dtype=torch.uint8, device="cpu")


def unwrap(model: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile` and data-parallel wrappers."""
    while type(model).__name__ in ("OptimizedModule", "DistributedDataParallel", "DataParallel"):
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module  # type: ignore[assignment]
    return model


class Eagerly:
    """A context in which compiled code runs eagerly, until the last of those who want it leaves, in any order.

    Torch's own stances are to be left in the reverse order in which they were taken; in another, one stays in force.

    Attributes:
        holders: How many want it.
    """

    def __init__(self) -> None:
        self.holders = 0
        self._stance = ExitStack()

    def __enter__(self) -> Self:
        if not self.holders:
            self._stance.enter_context(torch.compiler.set_stance("force_eager"))
        self.holders += 1
        return self

    def __exit__(self, *exception: object) -> None:
        self.holders -= 1
        if not self.holders:
            self._stance.close()


EAGERLY = Eagerly()
"""The one context of all probes."""


class Probe:
    """A context manager that attaches hooks to a model and always removes them.

    It never runs the model, and never changes its mode, buffers, random state or output.

    Args:
        model: Any `torch.nn.Module`; wrappers of `torch.compile` and data parallelism are unwrapped.
        ranks: The processes of a distributed run whose measurements make up the result.

    Attributes:
        in_traces: Whether it measures passes that `torch.jit.trace` records; all other recording is refused.

    Raises:
        UsageError: If the model is not a module, or is a module that runs no hooks.
    """

    in_traces = True

    def __init__(self, model: nn.Module, ranks: Ranks) -> None:
        _check_is_module(type(self).__name__, model)
        self.model = unwrap(model)
        self.ranks = ranks
        if isinstance(self.model, torch.jit.ScriptModule):
            raise UsageError("a scripted module runs no Python hooks: probe the module it was scripted from")
        self._compiled = any(is_compiled(module) for module in model.modules())
        self._stack: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._stack is not None:
            raise GradlabError("this probe is already attached: use one probe for each `with` block")
        keep_freed_memory()
        self.ranks.remember()
        with ExitStack() as stack:
            self._enter(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ranks.remember()
        if self._stack is not None:
            stack, self._stack = self._stack, None
            stack.close()

    def _enter(self, stack: ExitStack) -> None:
        """Register what stays on while the probe is attached: unless a probe says otherwise, the hooks of passes."""
        self._attach_to_passes(stack)

    def _attach_to_passes(self, stack: ExitStack) -> None:
        """Register the hooks of passes that are measured, and those that refuse what these could not measure."""
        if self._needs_hooks:
            self._refuse_silence(stack)
        self._attach(stack)
        self._refuse_recording(stack)
        if self._needs_hooks and torch.cuda.is_available():
            # Before all other hooks, since a graph that is being captured allows little.
            stack.enter_context(self.model.register_forward_pre_hook(Hook(refuse_captured_pass), prepend=True))

    @property
    def _needs_hooks(self) -> bool:
        """Whether hooks have to be called in every pass, as compiled code and replays of CUDA graphs call none."""
        return True

    def _attach(self, stack: ExitStack) -> None:
        """Register every hook that measures, and put its handle on the stack."""
        raise AssertionError("a probe says what it attaches")

    def _refuse_recording(self, stack: ExitStack) -> None:
        """Refuse to export or trace the model, before all other hooks."""
        refuse = RefusingHook(refuse_recording(type(self).__name__, self.in_traces))
        stack.enter_context(self.model.register_forward_pre_hook(refuse, prepend=True))

    def _refuse_silence(self, stack: ExitStack) -> None:
        """Run compiled code eagerly while the probe is attached, since compiled code ignores hooks added later."""
        if self._compiled:
            warnings.warn(RUNS_EAGERLY, stacklevel=3)
        # A compiled function may also call the model, which cannot be detected at this point.
        if self._compiled or "torch._dynamo" in sys.modules:
            stack.enter_context(EAGERLY)
            if not self._compiled:
                warn = Hook(lambda *_: _warn_of_compiled_caller())
                stack.enter_context(self.model.register_forward_pre_hook(warn, prepend=True))


RUNS_EAGERLY = "the model is compiled: it runs eagerly while it is probed, since compiled code calls no hooks"


def is_compiled(module: nn.Module) -> bool:
    """Return whether a module, or one of its methods, was passed to `torch.compile`."""
    call = module._compiled_call_impl
    if type(module).__name__ == "OptimizedModule" or (call is not None and not is_direct(call)):
        return True
    owners = [vars(module), *(vars(base) for base in type(module).__mro__ if base.__module__.split(".")[0] != "torch")]
    return any(hasattr(value, "_torchdynamo_orig_callable") for owner in owners for value in owner.values())


def _warn_of_compiled_caller() -> None:
    """Warn if a compiled function, which now runs eagerly, calls the model."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        code = frame.f_code
        # Such frames are also those of functions that are never compiled, as torch.utils.checkpoint.
        if code.co_filename.endswith("_dynamo/eval_frame.py") and "DisableContext" not in code.co_qualname:
            # Python shows a warning once per location.
            warnings.warn(RUNS_EAGERLY.replace("the model", "a function around the model"), stacklevel=2)
            return


def _check_is_module(probe: str, model: object) -> None:
    if isinstance(model, str):
        raise UsageError(f"{probe} takes a module, not the name {model!r}: build it first, as gl.build({model!r}) does")
    if not isinstance(model, nn.Module):
        raise UsageError(f"{probe} takes a torch.nn.Module, not {type(model).__name__}")
