"""Input gradients of fully connected nets in reverse mode, including those through the normalization statistics."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.models.mlp.family import Family, Init
from gradlab.models.mlp.gradients import EPS, divide_by_power_of_two
from gradlab.models.mlp.weights import WeightStream
from gradlab.transfer import uploaded

_SEGMENT = 16
"""Number of blocks between stored states. The backward pass recomputes each segment and draws its weights again, so
that memory hardly grows with depth: neither the states nor the weights of all layers are ever held at once."""


def full_gradient(
    family: Family,
    x: Tensor,
    seed: int,
    depth: int,
    *,
    width: int = 200,
    init: Init = "he",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Compute the gradient of the sum of all outputs, including its part through the normalization statistics.

    The net is that of `create_mlp`.

    Args:
        family: The family of the net, with its norm resolved.
        x: The inputs, shape (M,).
        seed: The seed of the weights.
        depth: The number of ReLU layers, or of residual blocks.
        width: The number of neurons per layer.
        init: The initialization, see `WeightStream`.
        dtype: The dtype of the computation.
        device: The device of the computation.

    Returns:
        The gradient, float64 of shape (M,).
    """
    stream = WeightStream(family, width, seed, init, dtype)
    stem, bias, readout = (uploaded(vector, device) for vector in (stream.stem, stream.bias, stream.readout))
    residual = family.kind == "resnet"
    blocks = depth if residual else depth - 1
    z = stem[:, None] * uploaded(x.to(dtype), device) + bias[:, None]  # (N, M)
    kept = []
    for first in range(0, blocks, _SEGMENT):
        kept.append((first, z, stream.state))
        with torch.no_grad():
            z = _run(family, z, stream, range(first, min(first + _SEGMENT, blocks)))
            if family.norm in ("none", "center"):
                # Such nets are homogeneous, so scaling the states does not change the gradients.
                divide_by_power_of_two(z)
    z.requires_grad_()
    end = readout @ (z if residual else activate(family, z))
    (gradient,) = torch.autograd.grad(end.sum(), z)
    exponent = torch.zeros(1, 1, dtype=torch.int32, device=device)
    for first, start, state in reversed(kept):
        stream.state = state
        end = _run(family, start.requires_grad_(), stream, range(first, min(first + _SEGMENT, blocks)))
        (gradient,) = torch.autograd.grad(end, start, gradient)
        exponent = exponent + divide_by_power_of_two(gradient)
    return torch.ldexp((stem @ gradient).double(), exponent.squeeze(0))


def _run(family: Family, z: Tensor, stream: WeightStream, blocks: range) -> Tensor:
    residual = family.kind == "resnet"
    for block in blocks:
        # In a net without shortcuts, no norm precedes the first ReLU.
        hidden = activate(family, normalized(family, z) if residual or block else z)
        out = uploaded(stream.layer(), z.device) @ hidden
        z = family.shortcut * z + family.beta * out if residual else out
    return z


def normalized(family: Family, z: Tensor) -> Tensor:
    """Apply a family's normalization over the inputs, to states (N, M)."""
    if family.norm in ("center", "bn"):
        z = z - z.mean(-1, keepdim=True)
    if family.norm in ("rms", "bn"):
        z = z * (z.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return z


def activate(family: Family, z: Tensor) -> Tensor:
    """Apply ReLU, or in looks-linear nets the identity, to which CReLU with mirrored weights amounts."""
    return z if family.kind == "ll" else z.relu()
