"""Gradients of a convolution's weight for single examples, in two ways: which is faster depends on the layer."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlab.stats.example_gradients import ExampleContributions
from gradlab.stats.workspace import Workspace


@dataclass(frozen=True)
class Geometry:
    """What a convolution does besides multiplying.

    Attributes:
        weight: The shape of its weight, (O, C / groups, *kernel).
        stride: A number a dimension.
        padding: Zeros on both sides, a number a dimension.
        dilation: A number a dimension.
        groups: Groups of channels.
    """

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def convolution_gradients(x: Tensor, gradient: Tensor, geometry: Geometry) -> ExampleContributions:
    """The gradients of a convolution's weight.

    Where an example's gradient has more values than its maps, writing it is what takes time, and products of
    matrices write it once, where the grouped convolution has several copies of it.

    Args:
        x: Input, shape (B, C, *).
        gradient: Of the output, shape (B, O, *).
        geometry: The convolution's.
    """
    large = math.prod(geometry.weight) * len(x) > x.numel() + gradient.numel()
    return (ProductGradients if large else GroupedGradients)(x, gradient, geometry)


class GroupedGradients(ExampleContributions):
    """By one convolution with a group of channels for each example.

    As in Rochette, Manoel and Tramel 2019 (arXiv:1912.06015), with the examples as groups.

    Args:
        x: Input, shape (B, C, *).
        gradient: Of the output, shape (B, O, *).
        geometry: The convolution's.
    """

    def __init__(self, x: Tensor, gradient: Tensor, geometry: Geometry) -> None:
        self.x, self.gradient, self.geometry = x, gradient, geometry
        self.examples, self.numel = len(x), math.prod(geometry.weight)

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return torch.cat([self._made(span) for span in self.spans()])

    def parts(self, workspace: Workspace) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        return (self._made(span)[None] for span in self.spans())

    def _made(self, span: slice) -> Tensor:
        x, gradient, geometry = self.x[span], self.gradient[span], self.geometry
        n = len(x)
        _, found, _ = torch.ops.aten.convolution_backward(
            gradient.reshape(1, -1, *gradient.shape[2:]),
            x.reshape(1, -1, *x.shape[2:]),
            # Only the shape of the weight is read.
            x.new_empty(n * geometry.weight[0], *geometry.weight[1:]),
            None,
            geometry.stride,
            geometry.padding,
            geometry.dilation,
            False,
            [0] * len(geometry.stride),
            n * geometry.groups,
            [False, True, False],
        )
        return found.reshape(n, -1)  # type: ignore[no-any-return]


class ProductGradients(ExampleContributions):
    """By products of matrices: for each row of the kernel, of the output's gradient and the inputs that it met.

    Args:
        x: Input, shape (B, C, *).
        gradient: Of the output, shape (B, O, *).
        geometry: The convolution's.
    """

    def __init__(self, x: Tensor, gradient: Tensor, geometry: Geometry) -> None:
        self.geometry, self.positions = geometry, gradient.shape[2:]
        self.examples, self.numel = len(x), math.prod(geometry.weight)
        # Groups of channels are examples of their own.
        folded = len(x) * geometry.groups
        self.x = x.reshape(folded, -1, *x.shape[2:])
        self.gradient = gradient.reshape(folded, -1, math.prod(self.positions))

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        outputs, inputs, *kernel = self.geometry.weight
        found = torch.cat([part.clone() for part in self.parts(Workspace())], 1)
        ordered = found.view(-1, self.examples, outputs, kernel[-1], inputs).permute(1, 2, 4, 0, 3)
        return ordered.flatten(1)

    def parts(self, workspace: Workspace) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        rows, groups = math.prod(self.geometry.weight[2:-1]), self.geometry.groups
        for span in self.spans():
            folded = slice(span.start * groups, span.stop * groups)
            gradient, columns = self.gradient[folded], self._columns(self.x[folded])
            out = workspace.take((rows, len(gradient), gradient.shape[1], columns.shape[-1]), columns)
            for row, met in zip(out, self._met(columns), strict=True):
                torch.bmm(gradient, met, out=row)
            yield out.view(rows, span.stop - span.start, -1)

    def _columns(self, x: Tensor) -> Tensor:
        """The inputs along the last dimension that each output's position there meets, in a row of the kernel.

        Args:
            x: Shape (b, C, *, W).

        Returns:
            Shape (b, *, W_out, K · C) for a kernel of width K, the other dimensions padded.
        """
        geometry, width = self.geometry, self.geometry.weight[-1]
        padded = F.pad(x, [p for padding in reversed(geometry.padding) for p in (padding, padding)])
        stride, length = geometry.stride[-1], self.positions[-1]
        taps = padded.unfold(-1, stride * (length - 1) + 1, geometry.dilation[-1])[..., :width, ::stride]
        columns = taps.permute(0, *range(2, taps.ndim - 2), -1, -2, 1)
        return columns.reshape(*columns.shape[:-2], -1)

    def _met(self, columns: Tensor) -> Iterator[Tensor]:
        """For each row of the kernel the columns that it meets, shape (b, positions, K · C)."""
        geometry = self.geometry
        for offsets in itertools.product(*map(range, geometry.weight[2:-1])):
            places = zip(offsets, geometry.dilation, geometry.stride, self.positions[:-1], strict=False)
            where = [slice(o * d, o * d + s * (n - 1) + 1, s) for o, d, s, n in places]
            yield columns[:, *where].flatten(1, -2)
