"""Gradients of single examples: their norms, their sum and the sum of their directions, without keeping them.

A layer's gradient is a sum over examples, and each form of layer has a way to take it apart: the classes here hold
the pieces of one layer's backward pass, and reduce them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.stats.sum_of_squares import sums_of_squares

_VALUES = 1 << 24
"""Values of single examples' gradients that exist at a time: 64 MiB of float32."""


@dataclass
class ExampleSums:
    """What is kept of the gradients g_1 … g_B of B examples; float64 (float32 on mps).

    Attributes:
        norms: ‖g_i‖, shape (B,).
        sum_norm: ‖Σ g_i‖, shape ().
        direction_norm: ‖Σ g_i/‖g_i‖‖ over those that are not 0, shape ().
    """

    norms: Tensor
    sum_norm: Tensor
    direction_norm: Tensor


@dataclass
class RowGradients:
    """Gradients that are made outright, some examples at a time.

    Attributes:
        make: The gradients of a range of examples, shape (b, P).
        examples: B.
        numel: P.
    """

    make: Callable[[slice], Tensor]
    examples: int
    numel: int

    @classmethod
    def of(cls, rows: Tensor) -> RowGradients:
        """Those that are there already, shape (B, P)."""
        return cls(lambda part: rows[part], *rows.shape)

    def chunks(self) -> Iterator[Tensor]:
        """All rows, in turn."""
        size = max(1, _VALUES // max(1, self.numel))
        for start in range(0, self.examples, size):
            yield self.make(slice(start, start + size))

    def rows(self) -> Tensor:
        """All rows, shape (B, P)."""
        return torch.cat(list(self.chunks()))

    def sums(self) -> ExampleSums:
        """The gradients, reduced."""
        norms, total = [], None
        for rows in self.chunks():
            norms.append(sums_of_squares(rows).sqrt())
            weights = torch.stack((torch.ones_like(norms[-1]), _reciprocal(norms[-1]))).to(rows.dtype)
            part = weights @ rows
            total = part if total is None else total.add_(part)
        assert total is not None
        both = sums_of_squares(total).sqrt()
        return ExampleSums(torch.cat(norms), both[0], both[1])


@dataclass
class OuterGradients:
    """Gradients Σ_t b_t a_tᵀ of a linear layer: of its inputs a and the gradients b of its outputs.

    Attributes:
        a: Shape (B, T, I).
        b: Shape (B, T, O).
    """

    a: Tensor
    b: Tensor

    def rows(self) -> Tensor:
        """The gradients themselves, shape (B, O·I)."""
        return torch.bmm(self.b.mT, self.a).flatten(1)

    def sums(self) -> ExampleSums:
        """The gradients, reduced: ‖g‖² = Σ_st ⟨a_s, a_t⟩⟨b_s, b_t⟩, which for T = 1 is ‖a‖²‖b‖² (Goodfellow 2015,
        arXiv:1510.01799).
        """
        (examples, length, inputs), outputs = self.a.shape, self.b.shape[2]
        if length == 1:
            norms = (sums_of_squares(self.a[:, 0]) * sums_of_squares(self.b[:, 0])).sqrt()
        elif length * (inputs + outputs) < inputs * outputs:
            grams = torch.bmm(self.a, self.a.mT).mul_(torch.bmm(self.b, self.b.mT))
            norms = grams.sum((1, 2), dtype=_wide(grams)).clamp(min=0).sqrt()
        else:
            make = lambda part: OuterGradients(self.a[part], self.b[part]).rows()  # noqa: E731
            return RowGradients(make, examples, inputs * outputs).sums()
        weights = torch.stack((torch.ones_like(norms), _reciprocal(norms))).to(self.b.dtype)
        a = self.a.flatten(0, 1)
        totals = [(self.b * weight[:, None, None]).flatten(0, 1).mT @ a for weight in weights]
        both = sums_of_squares(torch.stack(totals).flatten(1)).sqrt()
        return ExampleSums(norms, both[0], both[1])


ExampleContributions = RowGradients | OuterGradients


def convolution_gradients(
    x: Tensor,
    gradient: Tensor,
    weight_shape: tuple[int, ...],
    *,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> RowGradients:
    """The gradients of a convolution's weight: one convolution with a group of channels for each example.

    As in Rochette, Manoel and Tramel 2019 (arXiv:1912.06015), with the examples as groups.

    Args:
        x: Input, shape (B, C, *).
        gradient: Of the output, shape (B, O, *).
        weight_shape: (O, C / groups, *kernel).
        stride: As of the convolution.
        padding: Zeros on both sides.
        dilation: As of the convolution.
        groups: As of the convolution.
    """

    def make(part: slice) -> Tensor:
        inputs, outputs = x[part], gradient[part]
        n = len(inputs)
        # Only the shape of the weight is read.
        weight = inputs.new_empty(n * weight_shape[0], *weight_shape[1:])
        _, found, _ = torch.ops.aten.convolution_backward(
            outputs.reshape(1, n * outputs.shape[1], *outputs.shape[2:]),
            inputs.reshape(1, n * inputs.shape[1], *inputs.shape[2:]),
            weight,
            None,
            stride,
            padding,
            dilation,
            False,
            [0] * len(stride),
            n * groups,
            [False, True, False],
        )
        return found.reshape(n, -1)  # type: ignore[no-any-return]

    return RowGradients(make, len(x), math.prod(weight_shape))


def normalization_gradients(
    x: Tensor, gradient: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[RowGradients, RowGradients]:
    """The gradients of γ and β of a batch normalization by running statistics.

    dL/dγ = Σ g (x − mean) / √(var + ε) and dL/dβ = Σ g, over positions: one normalization's backward pass, with the
    channels of each example as channels of their own.

    Args:
        x: Input, shape (B, C, *).
        gradient: Of the output, of the same shape.
        mean: Running mean, shape (C,).
        var: Running variance, shape (C,).
        eps: ε.
    """
    examples, channels = x.shape[:2]
    _, scale, shift = torch.ops.aten.native_batch_norm_backward(
        gradient.reshape(1, examples * channels, -1),
        x.reshape(1, examples * channels, -1),
        None,
        mean.to(x.dtype).repeat(examples),
        var.to(x.dtype).repeat(examples),
        None,
        None,
        False,
        eps,
        [False, True, True],
    )
    return RowGradients.of(scale.view(examples, channels)), RowGradients.of(shift.view(examples, channels))


def positions_sum(gradient: Tensor) -> Tensor:
    """Sum over positions: (B, C, *) to (B, C)."""
    return gradient.flatten(2).sum(2) if gradient.ndim > 2 else gradient


def _reciprocal(norms: Tensor) -> Tensor:
    """1 / norm; a gradient of 0 has no direction, and adds nothing to their sum."""
    return norms.reciprocal().where(norms > 0, 0)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float32 if x.device.type == "mps" else torch.float64
