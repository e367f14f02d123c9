"""Runs a model without changing its state."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gradlab.errors import UsageError


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """A context that restores buffers, gradients and random states at its end.

    Raises:
        UsageError: If parameters of the model have no shape before its first call.
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise UsageError("a lazy module takes its shape from the first batch: run the model once before")
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.is_cuda}
    python, numpy = random.getstate(), sys.modules.get("numpy")
    drawn = None if numpy is None else numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        if numpy is not None:
            numpy.random.set_state(drawn)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, name, buffer, value in buffers:
            module._buffers[name] = buffer
            with torch.inference_mode() if buffer.is_inference() else torch.no_grad():
                buffer.copy_(value)
