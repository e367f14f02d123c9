"""Residual blocks and shortcuts (He et al. 2015, arXiv:1512.03385, §3.2 to §4.1 and Fig. 5)."""

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ShortcutOption = Literal["A", "B", "C"]
"""A: zero-padding; B: projections where the size changes; C: projections in every block (§4.1)."""


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """A convolution that keeps the map size at stride 1; without bias where batch normalization follows."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)


class ZeroPadShortcut(nn.Module):
    """Option A: the identity, subsampled and padded with zero channels; it has no parameters.

    The paper does not say where the zeros go. Half stand before and half behind the input's channels,
    as in the most used CIFAR implementation, so that its published weights mean the same here.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        extra = out_channels - in_channels
        self.stride = stride
        self.padding = (extra // 2, extra - extra // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.padding))


def shortcut(in_channels: int, out_channels: int, stride: int, option: ShortcutOption) -> nn.Module:
    """The shortcut connection of one block, by option A, B or C of §4.1."""
    same_size = stride == 1 and in_channels == out_channels
    if option == "C" or (option == "B" and not same_size):
        return nn.Sequential(
            convolution(in_channels, out_channels, kernel=1, stride=stride),
            nn.BatchNorm2d(out_channels),
        )
    return nn.Identity() if same_size else ZeroPadShortcut(in_channels, out_channels, stride)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions (Fig. 5, left); without a shortcut, the same two layers of a plain net.

    With β below 1 the shortcut dominates: x + β·F(x) (Balduzzi et al. 2017, arXiv:1702.08591, §3.2). With λ below 1
    it fades from block to block: λ·x + F(x) (He et al. 2016, arXiv:1603.05027, Eq. 6 and Table 1).
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int = 1,
        option: ShortcutOption | None = "A",
        beta: float = 1.0,
        shortcut_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.beta, self.shortcut_scale = beta, shortcut_scale
        self.conv1 = convolution(in_channels, channels, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, kernel=3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = None if option is None else shortcut(in_channels, channels, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out if self.shortcut is None else self.add(self.shortcut(x), out))

    def add(self, kept: Tensor, branch: Tensor) -> Tensor:
        """The addition: λ·h(x) + β·F(x), of what the shortcut kept and what the branch gives."""
        if self.shortcut_scale != 1:
            kept = self.shortcut_scale * kept
        return torch.add(kept, branch, alpha=self.beta)

    @staticmethod
    def after_last(channels: int) -> nn.Module:
        """What follows the last block of a network of such blocks: nothing."""
        return nn.Identity()


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions (Fig. 5, right); the stride is in the first 1×1, as in the paper.

    β is that of `BasicBlock`.
    """

    expansion = 4

    def __init__(
        self, in_channels: int, channels: int, stride: int = 1, option: ShortcutOption | None = "B", beta: float = 1.0
    ) -> None:
        super().__init__()
        self.beta = beta
        out_channels = channels * self.expansion
        self.conv1 = convolution(in_channels, channels, kernel=1, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, kernel=3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, out_channels, kernel=1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = None if option is None else shortcut(in_channels, out_channels, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, 4 C', H / stride, W / stride)."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.shortcut is not None:
            out = torch.add(self.shortcut(x), out, alpha=self.beta)
        return F.relu(out)


Block = type[BasicBlock] | type[Bottleneck]


def stage(
    block: Block,
    in_channels: int,
    channels: int,
    blocks: int,
    stride: int,
    option: ShortcutOption | None,
    **scales: float,
) -> nn.Sequential:
    """A row of blocks at one map size; only the first changes the size. `scales` are the blocks' own."""
    make: Callable[..., nn.Module] = block
    first = make(in_channels, channels, stride, option, **scales)
    rest = (make(channels * block.expansion, channels, 1, option, **scales) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
