"""Graphs of models inside `DistributedDataParallel`.

Torch cuts such a graph where the gradients of one bucket are complete, so that these are exchanged while the backward
pass goes on. A backend sees the parts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

Backend = Callable[..., Callable[..., Any]]


@contextmanager
def uncut() -> Iterator[DistributedDataParallel | None]:
    """A context in which graphs are not cut; gives the wrapper in which the model is running, if any."""
    around = DistributedDataParallel._active_ddp_module
    DistributedDataParallel._active_ddp_module = None
    try:
        yield around
    finally:
        DistributedDataParallel._active_ddp_module = around


def cutting(backend: Backend, around: DistributedDataParallel) -> Backend:
    """Return a backend that cuts graphs as torch does.

    Args:
        backend: What compiles the parts.
        around: The wrapper in which the model is running.
    """
    if torch._dynamo.config.optimize_ddp not in (True, "ddp_optimizer"):
        return backend
    from torch._dynamo.backends.distributed import DDPOptimizer

    compiled: Backend = DDPOptimizer(around.bucket_bytes_cap, backend).compile_fn
    return compiled
