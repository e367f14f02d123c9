"""Input gradients and activity of fully connected nets in one forward-mode pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradlab.models.mlp.family import Family, Init
from gradlab.models.mlp.weights import WeightStream
from gradlab.transfer import uploaded

EPS = 1e-5
"""The constant ε of every normalization, as in `nn.BatchNorm1d`."""

_RESCALE_EVERY = 16
"""Number of layers after which states and tangents are rescaled: 2^(L/2) leaves the range of float32 at depth 256."""


@dataclass(frozen=True)
class ForwardPass:
    """The results of one pass, for L layers, S seeds, N neurons, M inputs and a pair of inputs.

    Attributes:
        gradients: The gradients df(x_i)/dx_i with frozen normalization statistics, by depth, float64 of shape (S, M).
        active: The number of inputs at which each neuron is active, shape (L, S, N), or (L, S, 2N) in a looks-linear
            net.
        passing: Whether the gradient passes each neuron at either input of the pair, as 0 or 1, shape (L, S, N, 2).
        scale: The derivative of each neuron's frozen normalization, shape (L, S, N, 1).
        end_active: The counts of `active` for the last ReLU of the net of each depth, which no norm precedes, shape
            (S, N). Empty for residual nets, whose readout is linear.
        end_passing: The values of `passing` for the same ReLU, shape (S, N, 2).
        in_range: Whether the states of each net stay within the range of the dtype, boolean of shape (S,). Where they
            overflow, neurons look as if they were never active.
    """

    gradients: dict[int, Tensor]
    active: Tensor
    passing: Tensor
    scale: Tensor
    end_active: dict[int, Tensor]
    end_passing: dict[int, Tensor]
    in_range: Tensor


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
    """Propagate states and tangents through random nets, and compute the gradient at every requested depth.

    Weights are drawn layer by layer and discarded, and only the states of two layers are held, so that memory hardly
    grows with depth. The weights are those of `create_mlp`: those of a seed depend neither on the other seeds nor on
    the other depths.

    Args:
        family: The family of the nets, with its norm resolved.
        x: The inputs, shape (M,); batch statistics are taken over all of them.
        seeds: The seeds, one per net; all nets are computed in one product.
        depths: The depths at which to compute the gradient.
        pair: The indices of the two inputs for which to record which neurons the gradient passes.
        width: The number of neurons per layer.
        init: The initialization, see `WeightStream`.
        dtype: The dtype of the computation.
        device: The device of the computation.
    """
    if family.kind == "ll":
        # Rounding errors in float32 would look like variation of the gradient.
        dtype = torch.float64
    streams = [WeightStream(family, width, seed, init, dtype) for seed in seeds]

    def batch(tensors: list[Tensor]) -> Tensor:
        return uploaded(torch.stack(tensors) if len(tensors) > 1 else tensors[0][None], device)

    x = uploaded(x.to(dtype), device)
    stem = batch([s.stem for s in streams])[..., None]
    bias = batch([s.bias for s in streams])[..., None]
    readout = batch([s.readout for s in streams])[:, None]
    z = _Rows(torch.cat([stem * x + bias, stem.expand(-1, -1, len(x))], -1))
    hidden = _Rows(torch.empty_like(z.both))
    exponent = torch.zeros(len(seeds), 1, 1, dtype=torch.int32, device=x.device)
    places = uploaded(torch.tensor([place % len(x) for place in pair]), device)
    residual, last = family.kind == "resnet", max(depths)
    neurons = 2 * width if family.kind == "ll" else width
    # One block per quantity: small tensors kept from every layer would fragment the heap.
    run = ForwardPass(
        {}, x.new_empty(last, len(seeds), neurons), x.new_empty(last, len(seeds), width, 2),
        x.new_ones(last, len(seeds), width, 1), {}, {}, x.new_empty(0)
    )  # fmt: skip
    for depth in range(1, last + 1):
        if not residual and depth in depths:
            end = torch.empty_like(run.active[0]), torch.empty_like(run.passing[0])
            passed = _activate(family, z, hidden, None, places, *end)
            run.gradients[depth] = _gradient(readout, passed.tangent, exponent)
            run.end_active[depth], run.end_passing[depth] = end
        scale = run.scale[depth - 1] if residual or depth > 1 else None
        passed = _activate(family, z, hidden, scale, places, run.active[depth - 1], run.passing[depth - 1])
        if residual or depth < last:
            weight = batch([s.layer() for s in streams])
            if scale is not None and family.norm in ("rms", "bn"):
                # A positive scale commutes with ReLU, and there are fewer weights than states and tangents.
                weight *= scale.mT
            out = hidden if passed is z else z
            out.both.baddbmm_(weight, passed.both, beta=family.shortcut if residual else 0.0, alpha=family.beta)
            z, hidden = out, passed
        if depth % _RESCALE_EVERY == 0:
            exponent = exponent + _rescale(family, z)
        if residual and depth in depths:
            run.gradients[depth] = _gradient(readout, z.tangent, exponent)
    return replace(run, in_range=_in_range(z.state, run.scale))


def _in_range(states: Tensor, scale: Tensor) -> Tensor:
    """Whether no state of a net has overflowed, (S,), from the last ones, and from the scales of all norms.

    The last states are not finite if earlier ones are not, and scales are 0 or NaN if squares are not finite.
    """
    return states.isfinite().flatten(1).all(1) & (scale > 0).transpose(0, 1).flatten(1).all(1)


class _Rows:
    """States at all inputs and their tangents in one tensor of shape (S, N, 2M)."""

    def __init__(self, both: Tensor) -> None:
        self.both, self.eps = both, both.new_full((), EPS)
        self.state, self.tangent = both.chunk(2, -1)


def _activate(
    family: Family, z: _Rows, hidden: _Rows, scale: Tensor | None, places: Tensor, count: Tensor, passing: Tensor
) -> _Rows:
    """Apply centring and ReLU to states and tangents; the scale is left to be applied to the weights.

    Args:
        family: The family of the net.
        z: The states and tangents before the norm.
        hidden: Room for states and tangents.
        scale: The output for the scale, initially ones, shape (S, N, 1); None where there is no norm.
        places: The indices of the pair of inputs.
        count: The output for the number of inputs at which each neuron is active, shape (S, N), or (S, 2N) in a
            looks-linear net.
        passing: The output for whether the gradient passes each neuron at the pair, shape (S, N, 2).

    Returns:
        What is passed on: `hidden`, or `z` itself in a looks-linear net.
    """
    if family.kind == "ll":
        # Weights (W′, −W′) invert the concatenated ReLU, one half of which always passes: see `looks_linear.crelu`.
        first, second = count.chunk(2, -1)
        torch.sum(torch.gt(z.state, 0, out=hidden.state), -1, out=first)
        torch.neg(first, out=second).add_(z.state.shape[-1])
        passing.fill_(1)
        return z
    # Factors and ε are fused into other operations, since an operation of their own costs as much as a row.
    state, share = z.state, 1 / z.state.shape[-1]
    if scale is not None and family.norm in ("center", "bn"):
        state = torch.sub(state, state.sum(-1, keepdim=True), alpha=share, out=hidden.state)
    if scale is not None and family.norm in ("rms", "bn"):
        norm = torch.linalg.vector_norm(state, dim=-1, keepdim=True)
        torch.addcmul(z.eps, norm, norm, value=share, out=scale).rsqrt_()
    torch.clamp(state, min=0, out=hidden.state)
    # Numbers make the following operations many times faster than booleans on a CPU. They are written to the memory
    # of the tangents, so that everything fits into the cache.
    active = torch.gt(hidden.state, 0, out=hidden.tangent)
    torch.sum(active, -1, out=count)
    torch.index_select(active, -1, places, out=passing)
    hidden.tangent *= z.tangent
    return hidden


def _gradient(readout: Tensor, tangents: Tensor, exponent: Tensor) -> Tensor:
    return torch.ldexp((readout @ tangents).double(), exponent).squeeze(1)


def _rescale(family: Family, z: _Rows) -> Tensor:
    """Divide by a power of two in place, which is exact, and return the exponents of the tangents, shape (S, 1, 1)."""
    if family.norm in ("none", "center"):
        divide_by_power_of_two(z.state)
    return divide_by_power_of_two(z.tangent)


def divide_by_power_of_two(part: Tensor) -> Tensor:
    """Scale the largest magnitude of a matrix to between 1/2 and 1, in place and exactly.

    Args:
        part: Matrices of shape (..., N, M).

    Returns:
        The exponents of the divisors, shape (..., 1, 1).
    """
    exponent = torch.frexp(part.abs().amax((-2, -1), keepdim=True)).exponent
    part *= torch.ldexp(torch.ones_like(part[..., :1, :1]), -exponent)
    return exponent
