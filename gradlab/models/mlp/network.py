"""The fully connected nets of "The Shattered Gradients Problem" as modules, to be trained or probed like any other."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.batch_scaling import BatchCentering, BatchRMSNorm
from gradlab.models.looks_linear import crelu
from gradlab.models.mlp.family import Family
from gradlab.models.mlp.weights import WeightStream


class MLP(nn.Module):
    """A net with scalar inputs and outputs; see `Family` for its equations.

    Args:
        family: The family of the net, with its norm resolved.
        depth: The number of ReLU layers, or of residual blocks.
        width: The number of neurons per layer.
    """

    input_shape = (1,)

    def __init__(self, family: Family, depth: int, width: int = 200) -> None:
        super().__init__()
        residual = family.kind == "resnet"
        self.family = family
        self.stem = nn.Linear(1, width, bias=family.bias)
        blocks = depth if residual else depth - 1
        # In a net without shortcuts, no norm precedes the first ReLU.
        norms = [family.norm or "none" if residual or block else "none" for block in range(blocks)]
        self.body = nn.Sequential(*(Block(family, width, norm) for norm in norms))
        self.head = nn.Linear(2 * width if family.kind == "ll" else width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1) to (B, 1)."""
        z = self.body(self.stem(x))  # (B, N)
        return self.head(z if self.family.kind == "resnet" else activation(self.family, z))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A norm, a ReLU and a linear layer, with a shortcut around them in a residual net."""

    def __init__(self, family: Family, width: int, norm: str) -> None:
        super().__init__()
        self.family = family
        self.norm = _NORMS[norm](width)
        self.linear = nn.Linear(2 * width if family.kind == "ll" else width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N) to (B, N)."""
        out: Tensor = self.linear(activation(self.family, self.norm(x)))
        return self.family.shortcut * x + self.family.beta * out if self.family.kind == "resnet" else out


_NORMS = {"none": nn.Identity, "center": BatchCentering, "rms": BatchRMSNorm, "bn": nn.BatchNorm1d}


def activation(family: Family, z: Tensor) -> Tensor:
    """Apply ReLU, from (B, N) to (B, N), or in a looks-linear net the concatenated ReLU, from (B, N) to (B, 2N)."""
    return crelu(z) if family.kind == "ll" else F.relu(z)


@torch.no_grad()
def initialize_(model: MLP, weights: WeightStream) -> None:
    """Give a net its initial weights, in place."""
    family = model.family
    model.stem.weight.copy_(weights.stem[:, None])
    if family.bias:
        model.stem.bias.copy_(weights.bias)
    model.head.weight.copy_(_mirrored(family, weights.readout[None]))
    for block in model.body:
        assert isinstance(block, Block)
        block.linear.weight.copy_(_mirrored(family, weights.layer()))
        if isinstance(block.norm, nn.modules.batchnorm._BatchNorm):
            block.norm.reset_parameters()


def _mirrored(family: Family, weight: Tensor) -> Tensor:
    return torch.cat([weight, -weight], -1) if family.kind == "ll" else weight
