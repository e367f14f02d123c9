"""The order of normalization and ReLU in a residual unit (He et al. 2016, arXiv:1603.05027, Fig. 4 and Table 2).

All five units consist of the same convolutions, normalizations and ReLUs, with the same number of weights; only the
order differs. In units without a ReLU after the addition, the state passes unchanged from block to block.

The paper (appendix) places the first activation of a pre-activation network after the first convolution, before the
paths split, and an extra one after the last addition. It does not say what a zero-padding shortcut receives where the
shape changes. Here that is the activated input, as for the paper's projections and in the authors' code for Torch;
only an identity shortcut receives the state itself. Those projections have no normalization of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

Unit = Literal["original", "bn-after-add", "relu-before-add", "relu-preact", "preact"]
"""The order of normalization and ReLU, Fig. 4 (a) to (e)."""

Layers = Sequence[tuple[nn.Module, nn.Module]]
"""The convolutions of a block in order, each with its normalization."""


class Block(Protocol):
    """What a unit orders: layers, a shortcut, and their addition; see `gradlab.models.blocks.ResidualBlock`."""

    shortcut: nn.Module | None

    def layers(self) -> Layers:
        """Return the convolutions in order, each with its normalization."""

    def add(self, kept: Tensor, branch: Tensor, x: Tensor) -> Tensor:
        """Add the outputs of shortcut and branch for a block's input x."""


def original(block: Block, x: Tensor) -> Tensor:
    """Compute Fig. 4 (a): a normalization after each convolution, and the last ReLU after the addition."""
    out = _branch(block.layers(), x)
    return F.relu(out if block.shortcut is None else block.add(block.shortcut(x), out, x))


def bn_after_addition(block: Block, x: Tensor) -> Tensor:
    """Compute Fig. 4 (b): the last normalization follows the addition, so that it affects the shortcut as well."""
    *front, (convolution, normalization) = block.layers()
    out = convolution(F.relu(_branch(front, x)))
    return F.relu(normalization(block.add(_kept(block, x, x), out, x)))


def relu_before_addition(block: Block, x: Tensor) -> Tensor:
    """Compute Fig. 4 (c): the branch ends with its ReLU, so that the state never decreases."""
    return block.add(_kept(block, x, x), F.relu(_branch(block.layers(), x)), x)


def relu_pre_activation(block: Block, x: Tensor) -> Tensor:
    """Compute Fig. 4 (d), ReLU-only pre-activation: the branch starts with a ReLU and ends with a normalization."""
    activated = F.relu(x)
    return block.add(_kept(block, x, activated), _branch(block.layers(), activated), x)


def pre_activation(block: Block, x: Tensor) -> Tensor:
    """Compute Fig. 4 (e), full pre-activation: normalization and ReLU precede each convolution."""
    (convolution, normalization), *rest = block.layers()
    activated = F.relu(normalization(x))
    out = convolution(activated)
    for convolution, normalization in rest:
        out = convolution(F.relu(normalization(out)))
    return block.add(_kept(block, x, activated), out, x)


UNITS: dict[Unit, Callable[[Block, Tensor], Tensor]] = {
    "original": original,
    "bn-after-add": bn_after_addition,
    "relu-before-add": relu_before_addition,
    "relu-preact": relu_pre_activation,
    "preact": pre_activation,
}
"""The forward pass of a block, by unit."""


def after_last(unit: Unit, channels: int) -> nn.Module:
    """Return the extra activation of pre-activation networks after the last addition, or the identity for others."""
    if unit == "preact":
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())
    return nn.ReLU() if unit == "relu-preact" else nn.Identity()


def _branch(layers: Layers, x: Tensor) -> Tensor:
    """Apply convolutions, each followed by its normalization, with a ReLU between them."""
    for place, (convolution, normalization) in enumerate(layers):
        x = normalization(convolution(F.relu(x) if place else x))
    return x


def _kept(block: Block, x: Tensor, activated: Tensor) -> Tensor:
    """Apply the shortcut: an identity receives the state itself, any other shortcut the activated state."""
    assert block.shortcut is not None
    kept: Tensor = x if isinstance(block.shortcut, nn.Identity) else block.shortcut(activated)
    return kept
