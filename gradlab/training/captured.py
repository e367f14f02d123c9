"""Forward and backward passes as a CUDA graph, which the host launches in one piece.

The passes of a small network are a thousand kernels of microseconds, which the host launches more slowly than the
device computes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UP = 3
"""Number of steps computed as usual before the capture, in which libraries choose their algorithms."""

Passes = Callable[[Tensor, Tensor], Tensor]
"""A function of inputs and labels that leaves new gradients in the parameters and returns what it found."""


class _Captured(NamedTuple):
    """A graph, and the memory where it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    labels: Tensor
    result: Tensor


class CapturedPasses:
    """Computes the first batches as usual, then captures one, and launches its graph for all later batches.

    All batches have one shape. Passes that cannot be captured, as they wait for the device, are computed as usual.

    Args:
        passes: The passes to capture. All else that they read must stay where it is in memory.
    """

    def __init__(self, passes: Passes) -> None:
        self.passes = passes
        self._stream = torch.cuda.Stream()
        self._warm_up = WARM_UP
        self._captured: _Captured | None = None

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute the gradients of one batch.

        Returns:
            What the passes return; after the capture in memory that the next call overwrites.
        """
        if self._captured is None and self._warm_up == 0:
            self._captured = self._capture(inputs, labels)
        if self._captured is None:
            self._warm_up -= 1
            return self._computed(inputs, labels)
        self._captured.inputs.copy_(inputs)
        self._captured.labels.copy_(labels)
        self._captured.graph.replay()
        return self._captured.result

    def _computed(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Compute on the stream of the capture, where autograd then expects the parameters."""
        main = torch.cuda.current_stream()
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            result = self.passes(inputs, labels)
        main.wait_stream(self._stream)
        return result

    def _capture(self, inputs: Tensor, labels: Tensor) -> _Captured | None:
        """Capture the passes, of which nothing is computed meanwhile; None if they do not allow it."""
        graph, held = torch.cuda.CUDAGraph(), (inputs.clone(), labels.clone())
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                result = self.passes(*held)
        except RuntimeError:
            return None
        return _Captured(graph, *held, result)
