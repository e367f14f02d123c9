"""Gradients of single examples: their norms, their sum and the sum of their directions, without keeping them.

A layer's gradient is a sum over examples, and each form of layer has a way to take it apart: the classes here hold
the pieces of one layer's backward pass, and reduce them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from gradlab.stats.norms import joint_norms
from gradlab.stats.precision import widest
from gradlab.stats.workspace import Workspace

_VALUES = 1 << 24
"""Values of single examples' gradients that exist at a time: 64 MiB of float32."""


class ExampleContributions(ABC):
    """What one use of a parameter adds to the gradients of B examples.

    Attributes:
        examples: B.
        numel: P, the number of the parameter's values.
    """

    examples: int
    numel: int

    @abstractmethod
    def rows(self) -> Tensor:
        """The gradients themselves, shape (B, P), their values in the parameter's order."""

    @abstractmethod
    def parts(self, workspace: Workspace) -> Iterator[Tensor]:
        """The gradients of some examples after those of others, in k pieces: shape (k, b, P / k).

        Their values come in any order, the same for all examples, and are good until the next part is asked for.
        """

    def in_order(self, values: Tensor) -> Tensor:
        """Values in the order of `parts`, shape (k, P / k), in that of the parameter, shape (P,)."""
        return values.flatten()

    def reduced(self, workspace: Workspace) -> tuple[Tensor, Tensor]:
        """The norms ‖g_i‖ and two sums over the gradients g_1 … g_B.

        Returns:
            The norms, float64 (float32 on mps) of shape (B,), and in the order of `parts` Σ g_i and the sum of the
            directions g_i/‖g_i‖ of those that are not 0, shape (k, 2, P / k).
        """
        norms, sums = [], None
        for part in self.parts(workspace):
            norms.append(joint_norms(part))
            weights = workspace.weights(_directions(norms[-1]), part.dtype)
            found = torch.bmm(weights.expand(part.shape[0], -1, -1), part)
            sums = found if sums is None else sums.add_(found)
        assert sums is not None
        return norms[0] if len(norms) == 1 else torch.cat(norms), sums

    def spans(self) -> Iterator[slice]:
        """Ranges of examples whose gradients may exist at a time."""
        size = max(1, _VALUES // max(1, self.numel))
        return (slice(start, min(start + size, self.examples)) for start in range(0, self.examples, size))


class RowGradients(ExampleContributions):
    """Gradients that are there already.

    Args:
        values: Shape (B, P).
    """

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.examples, self.numel = values.shape

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return self.values

    def parts(self, workspace: Workspace) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        yield self.values[None]


class OuterGradients(ExampleContributions):
    """Gradients Σ_t b_t a_tᵀ of a linear layer: of its inputs a and the gradients b of its outputs.

    Args:
        a: Shape (B, T, I).
        b: Shape (B, T, O).
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        self.a, self.b = a, b
        self.examples, self.numel = len(a), a.shape[2] * b.shape[2]

    def rows(self) -> Tensor:
        """See `ExampleContributions`."""
        return torch.bmm(self.b.mT, self.a).flatten(1)

    def parts(self, workspace: Workspace) -> Iterator[Tensor]:
        """See `ExampleContributions`."""
        for span in self.spans():
            a, b = self.a[span], self.b[span]
            (out,) = workspace.take(a, (len(a), b.shape[2], a.shape[2]))
            yield torch.bmm(b.mT, a, out=out).flatten(1)[None]

    def reduced(self, workspace: Workspace) -> tuple[Tensor, Tensor]:
        """See `ExampleContributions`; ‖g‖² = Σ_st ⟨a_s, a_t⟩⟨b_s, b_t⟩, which for T = 1 is ‖a‖²‖b‖² (Goodfellow 2015,
        arXiv:1510.01799).
        """
        length, inputs, outputs = *self.a.shape[1:], self.b.shape[2]
        if length == 1:
            norms = joint_norms(self.a.mT.flatten(1)[None]) * joint_norms(self.b.mT.flatten(1)[None])
        elif length * (inputs + outputs) < inputs * outputs:
            grams = torch.bmm(self.a, self.a.mT).mul_(torch.bmm(self.b, self.b.mT))
            norms = grams.sum((1, 2), dtype=widest(grams.device)).clamp(min=0).sqrt()
        else:
            return super().reduced(workspace)
        weights, a = workspace.weights(_directions(norms), self.b.dtype), self.a.flatten(0, 1)
        sums = [(self.b * weight[:, None, None]).flatten(0, 1).mT @ a for weight in weights]
        return norms, torch.stack(sums).flatten(1)[None]


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
    mean, var = (t.to(x.dtype).expand(examples, channels).reshape(-1) for t in (mean, var))
    _, scale, shift = torch.ops.aten.native_batch_norm_backward.default(
        gradient.reshape(1, examples * channels, -1),
        x.reshape(1, examples * channels, -1),
        None,
        mean,
        var,
        None,
        None,
        False,
        eps,
        [False, True, True],
    )
    return RowGradients(scale.view(examples, channels)), RowGradients(shift.view(examples, channels))


def positions_sum(gradient: Tensor) -> Tensor:
    """Sum over positions: (B, C, *) to (B, C)."""
    return gradient.flatten(2).sum(2) if gradient.ndim > 2 else gradient


def _directions(norms: Tensor) -> Tensor:
    """Weights that give the sum of the directions of gradients.

    A gradient of 0 has no direction: the weight that it gets here is finite, and adds nothing.
    """
    return norms.clamp(min=torch.finfo(torch.float32).tiny).reciprocal()
