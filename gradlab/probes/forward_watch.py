"""The gradient of one response, reduced as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from gradlab.probes.backward_passes import keeps_graph
from gradlab.probes.outputs import plain
from gradlab.stats import row_norms

LOST = "several passes"
OVERWRITTEN = "overwritten"


class Watch:
    """Receives the gradient with respect to the present value of a tensor, after all hooks on the tensor.

    Gradients of several backward passes through one graph are gradients of a sum of losses, so they are added as
    vectors. The first gradient is kept for this purpose only as long as the graph is retained.

    Args:
        tensor: A tensor that is part of a graph.
        part: The index of a part of the tensor's last dimension and the number of equal parts; None for the whole.
        counts: A function that returns whether the current backward pass counts.
        arrived: A function called with this watch after each gradient.

    Attributes:
        numel: The number of elements of the gradient.
        task: The number of the pass that the last gradient came with, which `arrived` may note.
        lost: The reason why the gradient is not known.
    """

    def __init__(
        self,
        tensor: Tensor,
        part: tuple[int, int] | None,
        counts: Callable[[], bool],
        arrived: Callable[[Watch], object],
    ) -> None:
        self.numel = 0
        self.task = -1
        self.lost: str | None = None
        self._part, self._counts, self._arrived = part, counts, arrived
        self._rows: Tensor | None = None
        self._kept: Tensor | None = None
        self._before: tuple[Tensor | None, Tensor | None, str | None] = None, None, None
        self._handles = [_hook(tensor, self._take)]
        self._version: Tensor | None = None
        if tensor._is_view() and tensor.grad_fn is not None:
            self._follow(tensor)

    def remove(self) -> None:
        """Remove the hooks, so that no further gradient is received."""
        for handle in self._handles:
            handle.remove()

    def rows(self) -> Tensor | None:
        """Return norms of rows of the gradient so far, whose own norm is that of the gradient."""
        return self._rows if self._kept is None else row_norms(self._kept)

    def reset(self) -> None:
        """Forget the gradients so far, since later ones belong to another step."""
        self._rows = self._kept = self.lost = None

    def undo(self) -> bool:
        """Forget the last gradient, whose pass has failed, and return whether there are others."""
        self._rows, self._kept, self.lost = self._before
        return self._rows is not None or self._kept is not None or self.lost is not None

    @property
    def retains(self) -> bool:
        """Whether the gradient is kept, since another pass through the graph may follow."""
        return self._kept is not None

    def _take(self, gradient: Tensor) -> None:
        if not self._counts():
            return
        self._before = self._rows, self._kept, self.lost
        with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
            gradient = plain(gradient.detach()) if gradient.is_nested else gradient.detach()
            if self._part is not None:
                gradient = gradient.chunk(self._part[1], -1)[self._part[0]]
            if self._rows is not None:
                # The first gradient is gone, because the graph was not retained for another pass.
                self.lost = LOST
            total = gradient if self._kept is None else self._kept + gradient
            if keeps_graph():
                self._kept = total
            else:
                self._rows, self._kept = row_norms(total), None
        self.numel = gradient.numel()
        self._arrived(self)

    def _follow(self, view: Tensor) -> None:
        """Handle a view that may be changed in place, after which autograd passes the gradient to its base instead.

        If the view covers its whole base, which nothing else is known to use, the gradient there is the same.
        """
        base = view._base
        assert base is not None
        # This alias shares the version counter but not the memory.
        self._version = view.detach()
        self._version.data = torch.empty(0, dtype=view.dtype, device=view.device)
        before = self._version._version
        whole = base.grad_fn is not None and base.numel() == view.numel() and _is_dense(view)

        def at_base(gradient: Tensor) -> None:
            if self._version is None or self._version._version == before or not self._counts():
                return
            if whole:
                self._rows = self._kept = None
                self._take(gradient)
            else:
                self._before = self._rows, self._kept, self.lost
                self.lost = OVERWRITTEN
                self._arrived(self)

        if base.grad_fn is not None:
            self._handles.append(_hook(base, at_base))


class GraphWatch:
    """Holds the gradient of one response of which compiled code has given the sum of squares.

    Attributes:
        numel: The number of elements of the response, known when its forward pass is over.
        task: As of `Watch`.
    """

    retains = False

    def __init__(self) -> None:
        self.numel = 0
        self.task = -1
        self.lost: str | None = None
        self._norm: Tensor | None = None

    def take(self, square: Tensor) -> None:
        """Receive the sum of squares, a float64 number."""
        if self._norm is not None:
            # Gradients of several losses add as vectors.
            self.lost = LOST
        # The square itself may lie in the memory of a CUDA graph, which the next pass overwrites.
        self._norm = square.sqrt()[None]

    def rows(self) -> Tensor | None:
        """See `Watch`."""
        return self._norm

    def reset(self) -> None:
        """See `Watch`."""
        self._norm = self.lost = None

    def undo(self) -> bool:
        """See `Watch`; a graph that is not retained has only one pass."""
        self.reset()
        return False


_Followed = TypeVar("_Followed", bound=Watch | GraphWatch)
_Site = TypeVar("_Site")


def without_failed(watches: Mapping[_Followed, _Site], failed: set[int]) -> dict[_Followed, _Site]:
    """Forget the gradients of failed passes, and return the watches that have others or were not reached by these.

    Args:
        watches: Watches with the sites that they belong to.
        failed: The numbers of the passes.
    """
    return {watch: site for watch, site in watches.items() if watch.task not in failed or watch.undo()}


def _hook(tensor: Tensor, take: Callable[[Tensor], None]) -> Any:
    """Register a function that receives the gradient of a tensor's present value, after all hooks on the tensor.

    A hook on the tensor itself would not do, since hooks registered later could change the gradient afterwards.
    """
    if tensor.grad_fn is None:
        return tensor.register_hook(take)
    number = tensor.output_nr

    def before(gradients: tuple[Tensor | None, ...]) -> None:
        gradient = gradients[number]
        if gradient is not None:
            take(gradient)

    return tensor.grad_fn.register_prehook(before)


def _is_dense(tensor: Tensor) -> bool:
    """Return whether the elements occupy distinct places in memory without gaps."""
    expected = 1
    for stride, size in sorted((st, si) for st, si in zip(tensor.stride(), tensor.shape, strict=True) if si > 1):
        if stride != expected:
            return False
        expected *= size
    return True
