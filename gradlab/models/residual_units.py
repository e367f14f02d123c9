"""Where normalization and ReLU stand in a residual unit (He et al. 2016, arXiv:1603.05027, Fig. 4 and Table 2).

All five are made of the same convolutions, normalizations and ReLUs, and of equally many weights; only the order
differs. In the units without a ReLU after the addition a network's state passes from block to block as it is.

The paper (appendix) puts a pre-activation network's first activation behind the first convolution, before the paths
split, and an extra one behind the last addition. It leaves open what a zero-padding shortcut takes where the shape
changes. Here it is the activated input, as in the paper's projections and in the authors' code for Torch: only the
identity takes the state as it is. Those projections have no normalization of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from gradlab.models.blocks import ResidualBlock

Unit = Literal["original", "bn-after-add", "relu-before-add", "relu-preact", "preact"]
"""Where normalization and ReLU stand: Fig. 4 (a) to (e)."""

Layers = Sequence[tuple[nn.Module, nn.Module]]
"""The convolutions of a block in order, each with its normalization."""


def original(block: ResidualBlock, x: Tensor) -> Tensor:
    """Fig. 4 (a): the normalization behind each convolution, the last ReLU behind the addition."""
    out = _branch(block.layers(), x)
    return F.relu(out if block.shortcut is None else block.add(block.shortcut(x), out, x))


def bn_after_addition(block: ResidualBlock, x: Tensor) -> Tensor:
    """Fig. 4 (b): the last normalization follows the addition, and so changes what the shortcut kept."""
    *front, (convolution, normalization) = block.layers()
    out = convolution(F.relu(_branch(front, x)))
    return F.relu(normalization(block.add(_kept(block, x, x), out, x)))


def relu_before_addition(block: ResidualBlock, x: Tensor) -> Tensor:
    """Fig. 4 (c): the branch ends with its ReLU, so that the state can only grow."""
    return block.add(_kept(block, x, x), F.relu(_branch(block.layers(), x)), x)


def relu_pre_activation(block: ResidualBlock, x: Tensor) -> Tensor:
    """Fig. 4 (d), ReLU-only pre-activation: the branch begins with a ReLU and ends with a normalization."""
    activated = F.relu(x)
    return block.add(_kept(block, x, activated), _branch(block.layers(), activated), x)


def pre_activation(block: ResidualBlock, x: Tensor) -> Tensor:
    """Fig. 4 (e), full pre-activation: normalization, ReLU and convolution, in turn."""
    (convolution, normalization), *rest = block.layers()
    activated = F.relu(normalization(x))
    out = convolution(activated)
    for convolution, normalization in rest:
        out = convolution(F.relu(normalization(out)))
    return block.add(_kept(block, x, activated), out, x)


UNITS: dict[Unit, Callable[[ResidualBlock, Tensor], Tensor]] = {
    "original": original,
    "bn-after-add": bn_after_addition,
    "relu-before-add": relu_before_addition,
    "relu-preact": relu_pre_activation,
    "preact": pre_activation,
}
"""What a block of each unit computes."""


def after_last(unit: Unit, channels: int) -> nn.Module:
    """The extra activation of pre-activation networks behind the last addition; nothing for the others."""
    if unit == "preact":
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    return nn.ReLU() if unit == "relu-preact" else nn.Identity()


def _branch(layers: Layers, x: Tensor) -> Tensor:
    """Convolutions, each with its normalization behind it, and a ReLU between every two."""
    for place, (convolution, normalization) in enumerate(layers):
        x = normalization(convolution(F.relu(x) if place else x))
    return x


def _kept(block: ResidualBlock, x: Tensor, activated: Tensor) -> Tensor:
    """What a shortcut hands on: the identity the state itself, any other the activated one."""
    assert block.shortcut is not None
    kept: Tensor = x if isinstance(block.shortcut, nn.Identity) else block.shortcut(activated)
    return kept
