"""The loss of the current backward pass."""

from __future__ import annotations

import sys
import threading
from types import CodeType, FrameType

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction

_BACKWARD = torch.autograd.backward.__code__
_GRAD = torch.autograd.grad.__code__
_OF_ENGINE = BackwardCFunction.apply.__code__
"""What the engine's own threads begin with where a function has a backward pass in Python."""


def roots_under_way() -> list[Tensor]:
    """Return the tensors that the current backward pass was started from, by `loss.backward()` or the like.

    The engine keeps them to itself. They are found where the call waits for it: on the stack of this thread, or,
    since passes on an accelerator run in a thread of their own, on the one other thread's that has such a call. Of
    passes within each other they are those of the outermost.

    Returns:
        The tensors; none if no such call is found, or more than one.
    """
    calls = _calls(sys._getframe(1))
    if calls and not _is_of_engine(calls[-1]):
        return _tensors(calls[-1])
    here = threading.get_ident()
    others = [_call(frame, _BACKWARD) for thread, frame in sys._current_frames().items() if thread != here]
    calls = [call for call in others if call is not None]
    return _tensors(calls[0]) if len(calls) == 1 else []


def is_within_another() -> bool:
    """Return whether the current pass is one of `torch.autograd.grad` that a hook makes in another pass.

    It may run the hooks by which `fully_shard` adds to gradients what other passes have left.
    """
    call = _call(sys._getframe(1), _BACKWARD, _GRAD)
    return call is not None and call.f_code is _GRAD and bool(roots_under_way())


def is_part_of_another() -> bool:
    """Return whether the current pass is run by a function of another pass, as by reentrant checkpointing."""
    calls = _calls(sys._getframe(1))
    return len(calls) > 1 or bool(calls and _is_of_engine(calls[-1]))


def scalar_sum(tensors: list[Tensor]) -> Tensor | None:
    """Return the sum of the real scalars among tensors, on the device of the first; None if there is none."""
    scalars = [t.detach().reshape(()) for t in tensors if t.numel() == 1 and not t.is_complex()]
    if not scalars:
        return None
    return torch.stack([scalar.to(scalars[0].device) for scalar in scalars]).sum()


def _call(frame: FrameType | None, *codes: CodeType) -> FrameType | None:
    """Return the innermost call on a stack of one of some functions."""
    while frame is not None and frame.f_code not in codes:
        frame = frame.f_back
    return frame


def _calls(frame: FrameType | None) -> list[FrameType]:
    """Return all calls of a backward pass on a stack, the innermost first."""
    calls = []
    while (call := _call(frame, _BACKWARD)) is not None:
        calls.append(call)
        frame = call.f_back
    return calls


def _is_of_engine(frame: FrameType) -> bool:
    """Return whether a call was made in a thread of the engine's own."""
    while frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code is _OF_ENGINE


def _tensors(call: FrameType) -> list[Tensor]:
    tensors = call.f_locals.get("tensors", ())
    return [tensors] if isinstance(tensors, Tensor) else [t for t in tensors if isinstance(t, Tensor)]
