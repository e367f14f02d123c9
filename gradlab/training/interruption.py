"""Ctrl-C and SIGTERM as requests to stop between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from gradlab.errors import GradlabError


class Interrupted(GradlabError):
    """Raised when a training run was asked to stop, after its checkpoint is written.

    Attributes:
        signal: The number of the signal.
    """

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets `signal`; a second one has its usual effect.

    Outside the main thread, where Python does not allow signal handlers, this does nothing.

    Attributes:
        signal: The number of the received signal, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
