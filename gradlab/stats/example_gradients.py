"""Gradients of single examples: their norms, their sum and the sum of their directions, without keeping them.

A layer's gradient is a sum over examples, and each form of layer has a way to take it apart: the classes here hold
the pieces of one layer's backward pass, and reduce them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from gradlab.stats.norms import all_tame, tame_norms
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
            found, tame = tame_norms(part)
            norms.append(found)
            weights = workspace.weights(found.reciprocal() if tame else inverse(found, part.dtype), part.dtype)
            added = torch.bmm(weights if len(part) == 1 else weights.expand(len(part), -1, -1), part)
            if not tame and found.is_cpu and not (part.dtype is torch.float32 and all_tame(found)):
                added[:, 1] = _wide_direction_sum(part, found)
            sums = added if sums is None else sums.add_(added)
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


def inverse(norms: Tensor, dtype: torch.dtype) -> Tensor:
    """The inverses of norms, as weights that give the sum of the directions of gradients.

    A gradient of 0 has no direction: the weight that it gets here is finite, and adds nothing.

    Args:
        norms: Float64 (float32 on mps).
        dtype: Which has to hold the inverses; it does of norms from its smallest normal number on.
    """
    return norms.clamp(min=torch.finfo(dtype).tiny).reciprocal()


def _wide_direction_sum(part: Tensor, norms: Tensor) -> Tensor:
    """The sum of directions in float64, shape (k, P), of a part (k, b, P) at scales whose inverse float32 lacks."""
    wide = torch.promote_types(part.dtype, torch.float64)
    return (inverse(norms, wide).to(wide) @ part.to(wide)).to(part.dtype)
