"""Input gradients of fully connected nets in one forward-mode pass, with what is active on the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.models.mlp.family import Family, Init
from gradlab.models.mlp.weights import WeightStream

EPS = 1e-5
"""ε of every normalization, as in `nn.BatchNorm1d`."""

_RESCALE_EVERY = 16
"""Layers after which states and tangents are brought back near 1: 2^(L/2) leaves float32 at depth 256."""


@dataclass(frozen=True)
class ForwardPass:
    """What one pass reads off; shapes are of L layers, S seeds, N neurons, M inputs, and a pair of inputs.

    Attributes:
        gradients: df(x_i)/dx_i, statistics of normalization frozen, by depth: (S, M), float64.
        active: At how many inputs a neuron is active: (L, S, N); (L, S, 2N) in a looks-linear net.
        passing: Whether the gradient passes a neuron at the pair, of 0 and 1: (L, S, N, 2).
        scale: Derivative of each neuron's frozen normalization: (L, S, N, 1).
        end_active: As `active`, of the last ReLU of the net of each depth, which has no norm before it: (S, N).
            Empty for residual nets, whose readout is linear.
        end_passing: As `passing`, of the same ReLU: (S, N, 2).
    """

    gradients: dict[int, Tensor]
    active: Tensor
    passing: Tensor
    scale: Tensor
    end_active: dict[int, Tensor]
    end_passing: dict[int, Tensor]


@torch.inference_mode()
def forward_mode(
    family: Family,
    x: Tensor,
    seeds: Sequence[int],
    depths: Sequence[int],
    *,
    pair: tuple[int, int] = (0, -1),
    width: int = 200,
    init: Init = "he",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> ForwardPass:
    """Run states and tangents through random nets together, and read off the gradient at every depth asked for.

    Weights are drawn layer by layer and discarded, and two layers' states are kept, so that memory hardly grows
    with depth. The same numbers as those of `create_mlp`: a seed's do not depend on the other seeds, nor on the
    other depths.

    Args:
        family: What the nets are made of, its norm resolved.
        x: (M,), the inputs; batch statistics are over all of them.
        seeds: One net each; on an accelerator all in one product.
        depths: Where to read off.
        pair: Places of the two inputs at which to tell what the gradient passes.
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
    stem = batch([s.stem for s in streams])[..., None]
    bias = batch([s.bias for s in streams])[..., None]
    readout = batch([s.readout for s in streams])[:, None]
    z = _Rows(torch.cat([stem * x + bias, stem.expand(-1, -1, len(x))], -1))
    hidden = _Rows(torch.empty_like(z.both))
    exponent = torch.zeros(len(seeds), 1, 1, dtype=torch.int32, device=x.device)
    places = torch.tensor([place % len(x) for place in pair], device=x.device)
    residual, last = family.kind == "resnet", max(depths)
    neurons = 2 * width if family.kind == "ll" else width
    # One block each: small tensors kept from every layer would break up the heap.
    run = ForwardPass(
        {}, x.new_empty(last, len(seeds), neurons), x.new_empty(last, len(seeds), width, 2),
        x.new_ones(last, len(seeds), width, 1), {}, {}
    )  # fmt: skip
    for depth in range(1, last + 1):
        if not residual and depth in depths:
            end = torch.empty_like(run.active[0]), torch.empty_like(run.passing[0])
            _activate(family, z, hidden, None, places, *end)
            run.gradients[depth] = _gradient(readout, hidden.tangent, exponent)
            run.end_active[depth], run.end_passing[depth] = end
        scale = run.scale[depth - 1] if residual or depth > 1 else None
        _activate(family, z, hidden, scale, places, run.active[depth - 1], run.passing[depth - 1])
        if residual or depth < last:
            weight = batch([s.layer() for s in streams])
            if scale is not None and family.norm in ("rms", "bn"):
                # A positive scale changes no sign, and there are fewer weights than states and tangents.
                weight *= scale.mT
            z.both.baddbmm_(weight, hidden.both, beta=float(residual), alpha=family.beta)
        if depth % _RESCALE_EVERY == 0:
            exponent = exponent + _rescale(family, z)
        if residual and depth in depths:
            run.gradients[depth] = _gradient(readout, z.tangent, exponent)
    return run


class _Rows:
    """States at all inputs and their tangents in one memory, (S, N, 2M)."""

    def __init__(self, both: Tensor) -> None:
        self.both, self.eps = both, both.new_tensor(EPS)
        self.state, self.tangent = both.chunk(2, -1)


def _activate(
    family: Family, z: _Rows, hidden: _Rows, scale: Tensor | None, places: Tensor, count: Tensor, passing: Tensor
) -> None:
    """Take states and tangents through centring and ReLU; scaling them is left to the weights.

    Args:
        family: What the net is made of.
        z: Before the norm.
        hidden: Where to write them.
        scale: Where to write the scale, (S, N, 1), ones; None where there is no norm.
        places: Of the pair of inputs.
        count: Where to write at how many inputs a neuron is active, (S, N); (S, 2N) in a looks-linear net.
        passing: Where to write whether the gradient passes a neuron at the pair, (S, N, 2).
    """
    if family.kind == "ll":
        # Weights (W′, −W′) undo the concatenated ReLU, of which one side or the other passes: `looks_linear.crelu`.
        first, second = count.chunk(2, -1)
        torch.sum(torch.gt(z.state, 0, out=hidden.state), -1, out=first)
        torch.sub(z.state.new_tensor(z.state.shape[-1]), first, out=second)
        passing.fill_(1)
        hidden.both.copy_(z.both)
        return
    # Numbers are passed as factors, and ε as a tensor: in an operation of their own each costs as much as a row.
    state, share = z.state, 1 / z.state.shape[-1]
    if scale is not None and family.norm in ("center", "bn"):
        state = torch.sub(state, state.sum(-1, keepdim=True), alpha=share, out=hidden.state)
    if scale is not None and family.norm in ("rms", "bn"):
        norm = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        torch.addcmul(z.eps, norm, norm, value=share, out=scale).rsqrt_()
    torch.clamp(state, min=0, out=hidden.state)
    # Numbers and not booleans: what is made of them runs many times faster on a CPU. Where tangents will stand, so
    # that there is no more memory than fits into the cache.
    active = torch.gt(hidden.state, 0, out=hidden.tangent)
    torch.sum(active, -1, out=count)
    torch.index_select(active, -1, places, out=passing)
    hidden.tangent *= z.tangent


def _gradient(readout: Tensor, tangents: Tensor, exponent: Tensor) -> Tensor:
    return torch.ldexp((readout @ tangents).double(), exponent).squeeze(1)


def _rescale(family: Family, z: _Rows) -> Tensor:
    """Divide by a power of two in place, which is exact; return the tangents' exponents, (S, 1, 1)."""
    if family.norm in ("none", "center"):
        divide_by_power_of_two(z.state)
    return divide_by_power_of_two(z.tangent)


def divide_by_power_of_two(part: Tensor) -> Tensor:
    """Bring the largest magnitude of a matrix to between 1/2 and 1, in place and exactly.

    Args:
        part: (..., N, M).

    Returns:
        The exponents, (..., 1, 1).
    """
    exponent = torch.frexp(part.abs().amax((-2, -1), keepdim=True)).exponent
    part *= torch.ldexp(torch.ones_like(part[..., :1, :1]), -exponent)
    return exponent
