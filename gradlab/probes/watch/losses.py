"""The loss of the current backward pass."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType

import torch
from torch import Tensor

_BACKWARD = torch.autograd.backward.__code__


def roots_under_way() -> list[Tensor]:
    """Return the tensors that the current backward pass was started from, by `loss.backward()` or the like.

    The engine keeps them to itself. They are found where the call waits for it: on the stack of this thread, or,
    since passes on an accelerator run in a thread of their own, on the one other thread's that has such a call.

    Returns:
        The tensors; none if no such call is found, or more than one.
    """
    own = _calls(sys._getframe(1))
    if (call := next(own, None)) is not None:
        return _tensors(call)
    here = threading.get_ident()
    others = [next(_calls(frame), None) for thread, frame in sys._current_frames().items() if thread != here]
    calls = [call for call in others if call is not None]
    return _tensors(calls[0]) if len(calls) == 1 else []


def scalar_sum(tensors: list[Tensor]) -> Tensor | None:
    """Return the sum of the real scalars among tensors, on the device of the first; None if there is none."""
    scalars = [t.detach().reshape(()) for t in tensors if t.numel() == 1 and not t.is_complex()]
    if not scalars:
        return None
    return torch.stack([scalar.to(scalars[0].device) for scalar in scalars]).sum()


def _calls(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the calls of `torch.autograd.backward` on a stack, innermost first."""
    while frame is not None:
        if frame.f_code is _BACKWARD:
            yield frame
        frame = frame.f_back


def _tensors(call: FrameType) -> list[Tensor]:
    tensors = call.f_locals.get("tensors", ())
    return [tensors] if isinstance(tensors, Tensor) else [t for t in tensors if isinstance(t, Tensor)]
