"""Gradients of a convolution's weight for single examples, by three methods, of which the fastest is chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from gradlab.stats import example_winograd
from gradlab.stats.example_gradients import ExampleContributions, unresolved
from gradlab.stats.example_native import convolution_rows, convolution_space, in_parameter_order, serves
from gradlab.stats.example_taps import tap_gradients
from gradlab.stats.example_winograd import winograd_rows, winograd_space
from gradlab.stats.workspace import Workspace


@dataclass(frozen=True)
class Geometry:
    """The hyperparameters of a convolution.

    Attributes:
        weight: The shape of its weight, (O, C / groups, *kernel).
        stride: The stride along each dimension.
        padding: The number of zeros on either side of each dimension.
        dilation: The dilation along each dimension.
        groups: The number of groups of channels.
    """

    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


def convolution_gradients(x: Tensor, gradient: Tensor, geometry: Geometry) -> ExampleContributions:
    """Choose the fastest method for the gradients of a convolution's weight.

    That is the C library, where it serves. Otherwise, where an example's gradient has more values than its maps,
    writing it takes most of the time. Matrix products write it once, whereas the grouped convolution makes several
    copies.

    Args:
        x: The input, shape (B, C, *).
        gradient: The gradient of the output, shape (B, O, *).
        geometry: The hyperparameters of the convolution.
    """
    if _is_adjacent(geometry) and serves(x, gradient):
        return NativeGradients(x, gradient, geometry)
    large = math.prod(geometry.weight) * x.shape[0] > x.numel() + gradient.numel()
    return (ProductGradients if large else GroupedGradients)(x, gradient, geometry)


def _is_adjacent(geometry: Geometry) -> bool:
    """Return whether an image's values under a row of the kernel lie next to each other, channels last."""
    return geometry.groups == 1 and len(geometry.stride) == 2 and (geometry.dilation[1] == 1 or geometry.weight[3] == 1)


class ConvolutionGradients(ExampleContributions):
    """Gradients of a convolution's weight by any method.

    Args:
        x: The input, shape (B, C, *).
        gradient: The gradient of the output, shape (B, O, *).
        geometry: The hyperparameters of the convolution.
    """

    def __init__(self, x: Tensor, gradient: Tensor, geometry: Geometry) -> None:
        self.x, self.gradient, self.factor, self.geometry = x, gradient, gradient, geometry
        self.examples, self.numel = x.shape[0], math.prod(geometry.weight)

    def doubtful(self, norms: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        return unresolved(norms, self.x, self.gradient)

    def exact(self, examples: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        x, gradient = self.x[examples].double(), self.gradient[examples].double()
        return tap_gradients(x, gradient, **vars(self.geometry))


class NativeGradients(ConvolutionGradients):
    """Gradients by the C library, for images whose channels are not in groups and kernels whose columns are adjacent.

    Args:
        x: The input, shape (B, C, H, W), float32 on the CPU.
        gradient: The gradient of the output, shape (B, O, H_out, W_out), likewise.
        geometry: The hyperparameters of the convolution.
    """

    def __init__(self, x: Tensor, gradient: Tensor, geometry: Geometry) -> None:
        super().__init__(x, gradient, geometry)
        self.winograd = example_winograd.serves(geometry.weight, geometry.stride, geometry.dilation)

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        outputs, inputs, height, width = self.geometry.weight
        found = torch.cat([part[0].clone() for part in self.parts(Workspace())])
        return found.view(-1, height, outputs, width, inputs).permute(0, 2, 4, 1, 3).flatten(1)

    def in_order(self, values: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        if values.dtype is torch.float32 and values.is_contiguous():
            return in_parameter_order(values, self.geometry.weight)
        outputs, inputs, height, width = self.geometry.weight
        return values.reshape(height, outputs, width, inputs).permute(1, 3, 0, 2).flatten()

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        geometry = self.geometry
        for span in islice(self.spans(), first, None):
            whole = span.stop - span.start == self.examples
            x, gradient = (t if whole else t[span] for t in (self.x, self.gradient))
            spaces = winograd_space if self.winograd else convolution_space
            space = spaces(x, gradient, geometry.padding)
            room, out = workspace.take(x, (space,), (len(x), self.numel))
            if self.winograd:
                winograd_rows(x, gradient, geometry.padding, room, out)
            else:
                kernel, dilation = geometry.weight[2:], geometry.dilation[0]
                convolution_rows(x, gradient, kernel, geometry.stride, geometry.padding, dilation, room.zero_(), out)
            yield out[None]


class GroupedGradients(ConvolutionGradients):
    """Gradients by one convolution that has a group of channels for each example.

    This is the method of Rochette, Manoel and Tramel 2019 (arXiv:1912.06015). Its arguments are those of
    `ConvolutionGradients`.
    """

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return torch.cat([self._made(span) for span in self.spans()])

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        return (self._made(span)[None] for span in islice(self.spans(), first, None))

    def _made(self, span: slice) -> Tensor:
        geometry, n = self.geometry, span.stop - span.start
        x, gradient = (t if n == self.examples else t[span] for t in (self.x, self.gradient))
        _, found, _ = torch.ops.aten.convolution_backward.default(
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


class ProductGradients(ConvolutionGradients):
    """Gradients by one matrix product per row of the kernel, between the output's gradient and the inputs it saw.

    Its arguments are those of `ConvolutionGradients`.
    """

    def __init__(self, x: Tensor, gradient: Tensor, geometry: Geometry) -> None:
        super().__init__(x, gradient, geometry)
        self.positions = gradient.shape[2:]
        # Each group of channels is treated as an example of its own.
        folded = len(x) * geometry.groups
        self.folded_x = x.reshape(folded, -1, *x.shape[2:])
        self.folded_gradient = gradient.reshape(folded, -1, math.prod(self.positions))

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        found = torch.cat([part.clone() for part in self.parts(Workspace())], 1)
        return torch.stack([self.in_order(example) for example in found.unbind(1)])

    def in_order(self, values: Tensor) -> Tensor:
        """See `ExampleContributions`."""
        outputs, inputs, *kernel = self.geometry.weight
        return values.reshape(-1, outputs, kernel[-1], inputs).permute(1, 3, 0, 2).flatten()

    def parts(self, workspace: Workspace, first: int = 0) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        geometry, groups = self.geometry, self.geometry.groups
        outputs, inputs, *kernel = geometry.weight
        padded_shape = [n + 2 * p for n, p in zip(self.x.shape[2:], geometry.padding, strict=True)]
        for span in islice(self.spans(), first, None):
            folded = slice(span.start * groups, span.stop * groups)
            x, gradient = self.folded_x[folded], self.folded_gradient[folded]
            n, width = x.shape[0], kernel[-1] * inputs
            padded, columns, out = workspace.take(
                x,
                (n, *padded_shape, inputs),
                (n, *padded_shape[:-1], self.positions[-1], width),
                (math.prod(kernel[:-1]), n, outputs // groups, width),
            )
            self._pad(x, padded)
            self._gather(padded, columns)
            for row, met in zip(out, self._met(columns), strict=True):
                torch.bmm(gradient, met, out=row)
            yield out.view(out.shape[0], span.stop - span.start, -1)

    def _pad(self, x: Tensor, padded: Tensor) -> None:
        """Copy the input, channels last, into a zero-padded tensor."""
        if any(self.geometry.padding):
            padded.zero_()
        inside = [slice(p, p + n) for p, n in zip(self.geometry.padding, x.shape[2:], strict=True)]
        padded[:, *inside].copy_(x.movedim(1, -1))

    def _gather(self, padded: Tensor, columns: Tensor) -> None:
        """Collect, for each output position along the last dimension, the inputs under one row of the kernel.

        Args:
            padded: The padded input, shape (b, *, W, C).
            columns: The tensor to fill, shape (b, *, W_out, K · C) for a kernel of width K.
        """
        geometry, width = self.geometry, self.geometry.weight[-1]
        span = geometry.dilation[-1] * (width - 1) + 1
        taps = padded.unfold(-2, span, geometry.stride[-1])[..., :: geometry.dilation[-1]]
        columns.view(*columns.shape[:-1], width, -1).copy_(taps.mT)

    def _met(self, columns: Tensor) -> Iterator[Tensor]:
        """Yield, for each row of the kernel, the inputs under it, shape (b, positions, K · C)."""
        geometry = self.geometry
        for offsets in itertools.product(*map(range, geometry.weight[2:-1])):
            places = zip(offsets, geometry.dilation, geometry.stride, self.positions[:-1], strict=False)
            where = [slice(o * d, o * d + s * (n - 1) + 1, s) for o, d, s, n in places]
            yield columns[:, *where].flatten(1, -2)
