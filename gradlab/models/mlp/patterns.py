"""Which rectifiers of a fully connected net are active at which inputs."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradlab.models.mlp.family import Family, Init
from gradlab.models.mlp.full_gradient import activate, normalized
from gradlab.models.mlp.weights import WeightStream
from gradlab.transfer import uploaded


@torch.no_grad()
def activation_patterns(
    family: Family,
    x: Tensor,
    seed: int,
    depth: int,
    *,
    width: int = 200,
    init: Init = "he",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run a net forward and yield the activity of its ReLUs layer by layer.

    The layers are those of the net of `create_mlp`, with a norm before the last ReLU as in a deeper one. In a
    looks-linear net these are the first halves of the concatenated ReLUs.

    Args:
        family: The family of the net, with its norm resolved.
        x: The inputs, (M,).
        seed: The seed of the weights.
        depth: The number of layers.
        width: The number N of neurons per layer.
        init: The initialization, see `WeightStream`.
        dtype: The dtype of the computation.
        device: The device of the computation.

    Yields:
        Whether each neuron is active at each input, boolean of shape (N, M), and whether the states of the layer are
        within the range of the dtype, boolean of shape (): where they overflow, neurons look as if they were inactive.
    """
    stream = WeightStream(family, width, seed, init, dtype)
    stem, bias = (uploaded(vector, device) for vector in (stream.stem, stream.bias))
    z = stem[:, None] * uploaded(x.to(dtype), device) + bias[:, None]
    for layer in range(depth):
        seen = normalized(family, z) if family.kind == "resnet" or layer else z
        # Where squares overflow, what is divided by their mean is 0.
        reach = z.square().sum(-1) if family.norm in ("rms", "bn") else seen
        yield seen > 0, seen.isfinite().all() & reach.isfinite().all()
        out = uploaded(stream.layer(), device) @ activate(family, seen)
        z = family.shortcut * z + family.beta * out if family.kind == "resnet" else out
        if family.norm in ("none", "center"):
            # Such nets are homogeneous: a common scale changes no sign.
            z = z / z.abs().max()
