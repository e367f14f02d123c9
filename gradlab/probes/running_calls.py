"""The calls of modules that are under way, and those that have ended without their hooks.

Torch calls no hook after an exception such as Ctrl-C, which is no `Exception`. That a call has ended so is seen by the
frame of its `nn.Module.__call__`, which is none of those that lead to the present one. This is looked at when the
frame that calls the hooks is freed, which is when the exception has been handled, and at the next call at the latest.
"""

from __future__ import annotations

import itertools
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, NamedTuple

from torch import nn

_CALL_IMPL = nn.Module._call_impl.__code__


class RunningCall(NamedTuple):
    """A call of a module that has begun.

    Attributes:
        name: The name of the module.
        number: A number that no other call has.
        frame: The frame of `nn.Module.__call__`, which is left when the call ends, however it ends; None if unknown.
        exception: The exception that was being handled when the call began.
    """

    name: str
    number: int
    frame: FrameType | None
    exception: BaseException | None


class RunningCalls:
    """Keeps the calls that are under way in one thread.

    Args:
        over: A function called when the outermost call turns out to have ended without its hook.

    Attributes:
        calls: The calls, outermost first.
        thread: The thread in which they run.
    """

    def __init__(self, over: Callable[[], None]) -> None:
        self.calls: list[RunningCall] = []
        self.thread = 0
        self._over = over
        self._started = itertools.count()
        self._forgetting = False

    def begin_call(self, name: str, frame: FrameType | None) -> RunningCall:
        """Add a call.

        Args:
            name: The name of the module.
            frame: The frame that is left when the call ends, or None.
        """
        if not self.calls:
            self.thread = threading.get_ident()
        call = RunningCall(name, next(self._started), frame, sys.exc_info()[1])
        self.calls.append(call)
        return call

    def forget_ended(self) -> None:
        """Forget calls that have ended without their hooks, and say so if the outermost is one of them."""
        if not self.calls or self._forgetting:
            return
        here = threading.get_ident() == self.thread
        # A frame that has itself among its variables would keep all tensors of those above.
        frame = sys._getframe(1) if here else sys._current_frames().get(self.thread)
        ended = []
        # To free a frame is to free others, whose calls are forgotten here.
        self._forgetting = True
        try:
            while self.calls and _distance(frame, self.calls[-1].frame) is None:
                ended.append(self.calls.pop())
            if not self.calls:
                self._over()
        finally:
            self._forgetting = False

    def go_on(self) -> bool:
        """Return whether a call is still under way."""
        self.forget_ended()
        return bool(self.calls)

    def nesting(self) -> Callable[[], bool]:
        """Return a function that tells whether it is called within a call that is under way, in the same thread.

        It forgets calls that have ended. It is quick where it is called as far within as the last time.
        """
        calls, frame_above, distance = self.calls, sys._getframe, 1

        def is_nested() -> bool:
            nonlocal distance
            if not calls:
                return False
            try:
                if frame_above(distance) is calls[0].frame:
                    return True
            except ValueError:
                # There are not so many frames.
                pass
            self.forget_ended()
            distance = (_distance(sys._getframe(), calls[0].frame) if calls else None) or 1
            return bool(calls)

        return is_nested


class Ending:
    """Notices the end of a call, as a part of what only the frame that calls the hooks keeps.

    Args:
        calls: The calls under way.
        call: The innermost of them.
    """

    _last: ClassVar[Callable[[], Ending | None]] = lambda: None

    # A compiler makes objects without this method.
    _calls: RunningCalls | None = None

    def __init__(self, calls: RunningCalls, call: RunningCall) -> None:
        self._calls, self._call = calls, call
        # Of several probes, the last one's takes the place of the others' in the frame.
        last = Ending._last()
        self._others = last if last is not None and last._call.frame is call.frame else None
        Ending._last = weakref.ref(self)

    def __del__(self) -> None:
        if self._calls is not None and self._calls.calls and self._calls.calls[-1] is self._call:
            self._calls.forget_ended()


class Arguments(tuple[Any, ...]):
    """The arguments of a call and keyword arguments, as a forward-pre hook returns them: torch unpacks them.

    The frame that calls the hooks keeps this pair until another hook with keyword arguments has been called.
    """

    ending: Ending


def arguments(args: tuple[Any, ...], kwargs: dict[str, Any], calls: RunningCalls, call: RunningCall) -> Arguments:
    """Return what a forward-pre hook with keyword arguments is to return, so that the call's end is noticed."""
    pair = Arguments((args, kwargs))
    pair.ending = Ending(calls, call)
    return pair


def frame_of_call(frame: FrameType) -> FrameType | None:
    """Return the frame of `nn.Module.__call__`, given the one that calls a hook; None in compiled code."""
    call = frame if frame.f_code is _CALL_IMPL else frame.f_back
    return call.f_back if call is not None and call.f_code is _CALL_IMPL else None


def _distance(frame: FrameType | None, outer: FrameType | None) -> int | None:
    """Return how many frames above a frame another one is, or None if it is not among those that lead to it."""
    distance = 0
    if outer is None:
        return distance
    while frame is not None and frame is not outer:
        frame, distance = frame.f_back, distance + 1
    return None if frame is None else distance
