"""A measurement in a process of its own, so that what a tool does to torch ends with it."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


class FailedApart(Exception):
    """What a function raised in its process, or how that process ended, in one phrase."""


def apart(function: Callable[[], T]) -> T:
    """The value of a function that runs in a fork of this process, which must not have run a backward pass.

    A bare fork, since TorchLens refuses to run in a child of `multiprocessing`.

    Raises:
        FailedApart: If it raises, its value cannot be pickled, or its process ends without a value.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _send(function, writing)
    os.close(writing)
    with open(reading, "rb") as file:
        sent = file.read()
    _, status = os.waitpid(child, 0)
    if not sent:
        raise FailedApart(f"its process ended with {os.waitstatus_to_exitcode(status)}")
    worked, value = pickle.loads(sent)
    if not worked:
        raise FailedApart(value)
    return value  # type: ignore[no-any-return]


def _send(function: Callable[[], object], writing: int) -> None:
    """Send the value of the function or what it raised, and end this process, whatever happens.

    What the function prints goes to stderr, its warnings nowhere.
    """
    try:
        os.dup2(2, 1)
        # Threads that this process had before do not come along.
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        try:
            sent = pickle.dumps((True, function()))
        except BaseException as error:
            sent = pickle.dumps((False, said(error)))
        with open(writing, "wb") as file:
            file.write(sent)
    finally:
        os._exit(0)


def said(error: BaseException) -> str:
    """An exception in one phrase."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:80] if lines else 'no message'}"
