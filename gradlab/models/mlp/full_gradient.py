"""Input gradients of fully connected nets through the statistics of normalization as well, in reverse mode."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.models.mlp.family import Family, Init
from gradlab.models.mlp.gradients import EPS, divide_by_power_of_two
from gradlab.models.mlp.weights import WeightStream

_SEGMENT = 16
"""Blocks between states that are kept. The way back runs each segment again, its weights drawn again, so that
memory hardly grows with depth: neither states nor weights of all layers are ever held."""


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
    """Gradient of the sum of all outputs, through the statistics of normalization as well.

    The net is that of `create_mlp`.

    Args:
        family: What the net is made of, its norm resolved.
        x: (M,), the inputs.
        seed: Of the weights.
        depth: ReLU layers, or residual blocks.
        width: Neurons a layer.
        init: As in `WeightStream`.
        dtype: Of the arithmetic.
        device: Where to compute.

    Returns:
        (M,), float64.
    """
    stream = WeightStream(family, width, seed, init, dtype)
    stem, bias, readout = (vector.to(device) for vector in (stream.stem, stream.bias, stream.readout))
    residual = family.kind == "resnet"
    blocks = depth if residual else depth - 1
    z = stem[:, None] * x.to(device, dtype) + bias[:, None]  # (N, M)
    kept = []
    for first in range(0, blocks, _SEGMENT):
        kept.append((first, z, stream.state))
        with torch.no_grad():
            z = _run(family, z, stream, range(first, min(first + _SEGMENT, blocks)))
            if family.norm in ("none", "center"):
                # Such nets are homogeneous: a factor on the states leaves gradients as they are.
                divide_by_power_of_two(z)
    z.requires_grad_()
    end = readout @ (z if residual else _activation(family, z))
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
        # The first ReLU of a net without shortcuts has no norm before it.
        hidden = _activation(family, _normalized(family, z) if residual or block else z)
        out = stream.layer().to(z.device) @ hidden
        z = z + family.beta * out if residual else out
    return z


def _normalized(family: Family, z: Tensor) -> Tensor:
    if family.norm in ("center", "bn"):
        z = z - z.mean(-1, keepdim=True)
    if family.norm in ("rms", "bn"):
        z = z * (z.square().mean(-1, keepdim=True) + EPS).rsqrt()
    return z


def _activation(family: Family, z: Tensor) -> Tensor:
    """ReLU; the concatenated one of looks-linear nets, contracted with its mirrored weights, is the identity."""
    return z if family.kind == "ll" else z.relu()
