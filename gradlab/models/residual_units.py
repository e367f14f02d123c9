"""Residual units whose normalization and ReLU stand elsewhere (He et al. 2016, arXiv:1603.05027, Fig. 4 and Table 2).

All are made of the same two 3×3 convolutions, two normalizations and two ReLUs as the original unit, and of equally
many weights; only the order differs. In the units without a ReLU after the addition a network's state passes from
block to block as it is.

The paper (appendix) puts a pre-activation network's first activation behind the first convolution, before the paths
split, and an extra one behind the last addition. It leaves open what a zero-padding shortcut takes where the shape
changes. Here it is the activated input, as in the paper's projections and in the authors' code for Torch: only the
identity takes the state as it is.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.blocks import BasicBlock

Unit = Literal["original", "bn-after-add", "relu-before-add", "relu-preact", "preact"]
"""Where normalization and ReLU stand: Fig. 4 (a) to (e)."""


class BNAfterAddition(BasicBlock):
    """Fig. 4 (b): the second normalization follows the addition, and so changes what the shortcut kept."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.add(self.shortcut(x), self.conv2(out))))  # type: ignore[misc]


class ReLUBeforeAddition(BasicBlock):
    """Fig. 4 (c): the branch ends with its ReLU, so that the state can only grow."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        return self.add(self.shortcut(x), F.relu(self.bn2(self.conv2(out))))  # type: ignore[misc]


class ReLUPreActivation(BasicBlock):
    """Fig. 4 (d), ReLU-only pre-activation: the branch begins with a ReLU and ends with a normalization."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        activated = F.relu(x)
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(activated)))))
        return self.add(_kept(self.shortcut, x, activated), out)

    @staticmethod
    def after_last(channels: int) -> nn.Module:
        """The extra activation behind the last addition."""
        return nn.ReLU()


class PreActivation(BasicBlock):
    """Fig. 4 (e), full pre-activation: BN, ReLU and convolution, twice.

    The first block of a network has no activation of its own: that of the first convolution is shared by both its
    paths (`share_activation`).
    """

    def __init__(self, in_channels: int, channels: int, stride: int = 1, *rest: object, **scales: float) -> None:
        super().__init__(in_channels, channels, stride, *rest, **scales)  # type: ignore[arg-type]
        self.bn1 = nn.BatchNorm2d(in_channels)

    def share_activation(self) -> None:
        """Take the input as activated already, by what stands before the block; a second ReLU changes nothing."""
        self.bn1 = nn.Identity()  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        activated = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return self.add(_kept(self.shortcut, x, activated), out)

    @staticmethod
    def after_last(channels: int) -> nn.Module:
        """The extra activation behind the last addition."""
        return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU())


UNITS: dict[Unit, type[BasicBlock]] = {
    "original": BasicBlock,
    "bn-after-add": BNAfterAddition,
    "relu-before-add": ReLUBeforeAddition,
    "relu-preact": ReLUPreActivation,
    "preact": PreActivation,
}
"""The block of every unit."""


def _kept(shortcut: nn.Module | None, x: Tensor, activated: Tensor) -> Tensor:
    """What a shortcut hands on: the identity the state itself, any other the activated one."""
    if isinstance(shortcut, nn.Identity):
        return x
    return shortcut(activated)  # type: ignore[misc, no-any-return]
