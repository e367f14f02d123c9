"""Input gradients of fully connected nets: one forward-mode pass for all depths, or a reverse pass for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.models.batch_norm import batch_statistics
from gradlab.models.mlp import create_mlp
from gradlab.models.mlp_family import Family, Init, MLPArchitecture
from gradlab.models.mlp_weights import WeightStream

EPS = 1e-5
"""ε of every normalization, as in `nn.BatchNorm1d`."""

_RESCALE_EVERY = 16
"""Layers after which states and tangents are brought back near 1: 2^(L/2) leaves float32 at depth 256."""


@dataclass(frozen=True)
class Readout:
    """The net that ends after so many layers; shapes are of S seeds, N neurons, M inputs.

    Attributes:
        gradient: df(x_i)/dx_i, statistics of normalization frozen: (S, M), float64.
        active: Neurons active in the last ReLU, of 0 and 1, (S, N, M); None in a residual net, whose readout is linear.
        passing: Neurons through which the gradient passes; as `active` but in a looks-linear net.
    """

    gradient: Tensor
    active: Tensor | None
    passing: Tensor | None


@dataclass(frozen=True)
class Layer:
    """One hidden layer on the way.

    Attributes:
        depth: Its 1-based place.
        active: Neurons active, of 0 and 1, (S, N, M); (S, 2N, M) in a looks-linear net.
        passing: Neurons through which the gradient passes, (S, N, M).
        scale: Derivative of each neuron's frozen normalization, (S, N, 1).
        readout: The net that ends here, if it was asked for.
    """

    depth: int
    active: Tensor
    passing: Tensor
    scale: Tensor
    readout: Readout | None


@torch.inference_mode()
def forward_mode(
    family: Family,
    x: Tensor,
    seeds: Sequence[int],
    depths: Sequence[int],
    *,
    width: int = 200,
    init: Init = "he",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Iterator[Layer]:
    """Run states and tangents through random nets together, and read off the gradient at every depth asked for.

    Weights are drawn layer by layer and discarded, so memory does not grow with depth. The same numbers as
    those of `create_mlp`: a seed's do not depend on the other seeds, nor on the other depths.

    Args:
        family: What the nets are made of, its norm resolved.
        x: (M,), the inputs; batch statistics are over all of them.
        seeds: One net each; on an accelerator all in one product.
        depths: Where to read off.
        width: Neurons a layer.
        init: As in `WeightStream`.
        dtype: Of the arithmetic.
        device: Where to compute.
    """
    if family.kind == "ll":
        # Rounding in float32 would pass for a gradient that varies.
        dtype = torch.float64
    streams = [WeightStream(family, width, seed, init, dtype) for seed in seeds]

    def batch(tensors: list[Tensor]) -> Tensor:
        return (torch.stack(tensors) if len(tensors) > 1 else tensors[0][None]).to(device)

    x = x.to(device, dtype)
    points = len(x)
    stem = batch([s.stem for s in streams])[..., None]
    bias = batch([s.bias for s in streams])[..., None]
    readout = batch([s.readout for s in streams])[:, None]
    # Columns: states at all inputs, then their tangents.
    z = torch.cat([stem * x + bias, stem.expand(-1, -1, points)], -1)
    exponent = torch.zeros(len(seeds), 1, 1, dtype=torch.int32, device=z.device)
    residual = family.kind == "resnet"
    last = max(depths)
    for depth in range(1, last + 1):
        at_end = None
        if not residual and depth in depths:
            active, passing, _, hidden = _hidden(family, z, points, normalize=False)
            at_end = Readout(_gradient(readout, hidden, exponent), active, passing)
        active, passing, scale, hidden = _hidden(family, z, points, normalize=residual or depth > 1)
        if residual or depth < last:
            weight = batch([s.layer() for s in streams])
            z = z.baddbmm_(weight, hidden, alpha=family.beta) if residual else weight @ hidden
        if depth % _RESCALE_EVERY == 0:
            exponent = exponent + _rescale(z, points, homogeneous=family.norm in ("none", "center"))
        if residual and depth in depths:
            at_end = Readout(_gradient(readout, z[..., points:], exponent, tangents_only=True), None, None)
        yield Layer(depth, active, passing, scale, at_end)


def _hidden(family: Family, z: Tensor, points: int, normalize: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is active, what the gradient passes, the norm's slope, and states and tangents after norm and ReLU."""
    state, tangent = z[..., :points], z[..., points:]
    scale = torch.ones_like(z[..., :1])
    if normalize and family.norm in ("center", "bn"):
        state = state - state.mean(-1, keepdim=True)
    if normalize and family.norm in ("rms", "bn"):
        norm = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        scale = (norm.square() / points + EPS).rsqrt()
    # Numbers and not booleans: what is made of them runs many times faster on a CPU.
    active = passing = torch.gt(state, 0, out=state.new_empty(state.shape))
    if family.kind == "ll":
        negative = torch.lt(state, 0, out=state.new_empty(state.shape))
        active, passing = torch.cat([active, negative], -2), active + negative
    # Scale and ReLU in one: a positive scale changes no sign.
    slope = passing * scale
    hidden = torch.empty_like(z)
    torch.mul(state, slope, out=hidden[..., :points])
    torch.mul(tangent, slope, out=hidden[..., points:])
    return active, passing, scale, hidden


def _gradient(readout: Tensor, rows: Tensor, exponent: Tensor, tangents_only: bool = False) -> Tensor:
    tangents = rows if tangents_only else rows[..., rows.shape[-1] // 2 :]
    return torch.ldexp((readout @ tangents).double(), exponent).squeeze(1)


def _rescale(z: Tensor, points: int, homogeneous: bool) -> Tensor:
    """Divide by a power of two in place, which is exact; return the tangents' exponents, (S, 1, 1)."""
    if homogeneous:
        _divide(z[..., :points])
    return _divide(z[..., points:])


def _divide(part: Tensor) -> Tensor:
    largest = part.abs().amax((-2, -1), keepdim=True)
    exponent = torch.frexp(largest).exponent
    part.copy_(torch.ldexp(part, -exponent))
    return exponent


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
    """Gradient of the sum of all outputs, through the statistics of normalization as well, in reverse mode.

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
    model = create_mlp(MLPArchitecture(family, depth, width), seed, init, dtype).to(device).eval()
    inputs = x.to(device, dtype)[:, None].requires_grad_()
    with batch_statistics(model):
        outputs = model.requires_grad_(False)(inputs)
    (gradient,) = torch.autograd.grad(outputs.sum(), inputs)
    return gradient.squeeze(1).double()
