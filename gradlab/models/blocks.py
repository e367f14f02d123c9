"""Residual blocks (He et al. 2015, arXiv:1512.03385, §3.2 to §4.1 and Fig. 5)."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gradlab.models.residual_units import UNITS, Layers, Unit
from gradlab.models.shortcuts import (
    Gate,
    GateConvolution,
    ShortcutDropout,
    ShortcutOption,
    convolution,
    shortcut,
)


@dataclass(frozen=True)
class Style:
    """The design of a network's blocks, apart from their sizes.

    Attributes:
        option: The shortcut option A, B or C; None gives the same layers as a plain net.
        beta: The weight β of the residual branches, x + β·F(x). Below 1 the shortcut dominates (Balduzzi et al. 2017,
            arXiv:1702.08591, §3.2).
        shortcut_scale: The factor λ of the shortcuts, λ·x + F(x). Below 1 the signal decays from block to block (He
            et al. 2016, arXiv:1603.05027, Eq. 6 and Table 1).
        unit: The order of normalization and ReLU.
        gate: The gating of the shortcuts, or None.
        dropout: The fraction of the shortcuts' values that is dropped in training.
    """

    option: ShortcutOption | None = "A"
    beta: float = 1.0
    shortcut_scale: float = 1.0
    unit: Unit = "original"
    gate: Gate | None = None
    dropout: float = 0.0


class ResidualBlock(nn.Module):
    """A sequence of convolutions with a shortcut around it; without a shortcut, the layers of a plain net.

    Args:
        in_channels: The number of input channels.
        channels: The output channels of the first convolution; the last one has `expansion` times as many.
        stride: The stride of the first convolution.
        style: The design of the block.
    """

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int = 1, style: Style | None = None) -> None:
        super().__init__()
        self.style = style or Style()
        self.make_layers(in_channels, channels, stride)
        out_channels = channels * self.expansion
        if self.style.unit == "preact":
            # Each normalization is applied to the input of its convolution.
            self.bn1, self.bn2 = nn.BatchNorm2d(in_channels), nn.BatchNorm2d(channels)
            if self.expansion > 1:
                self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = None
        if self.style.option is not None:
            normalized = self.style.unit != "preact"
            self.shortcut = shortcut(in_channels, out_channels, stride, self.style.option, normalized=normalized)
            if self.style.dropout:
                self.shortcut = nn.Sequential(self.shortcut, ShortcutDropout(self.style.dropout))
        if self.style.gate is not None:
            self.shortcut_gate = GateConvolution(in_channels, out_channels, 1, stride, bias=self.style.gate.bias)

    @abstractmethod
    def make_layers(self, in_channels: int, channels: int, stride: int) -> None:
        """Create the convolutions and normalizations."""

    @abstractmethod
    def layers(self) -> Layers:
        """Return the convolutions in order, each with its normalization."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return UNITS[self.style.unit](self, x)

    def add(self, kept: Tensor, branch: Tensor, x: Tensor) -> Tensor:
        """Add the outputs of shortcut and branch for a block's input x: λ·h(x) + β·F(x), gated if there is a gate."""
        if self.style.shortcut_scale != 1:
            kept = self.style.shortcut_scale * kept
        if self.style.gate is not None:
            gate = torch.sigmoid(self.shortcut_gate(x))  # (B, C', H / stride, W / stride)
            kept = (1 - gate) * kept
            branch = gate * branch if self.style.gate.exclusive else branch
        return torch.add(kept, branch, alpha=self.style.beta)


class BasicBlock(ResidualBlock):
    """Two 3×3 convolutions (Fig. 5, left)."""

    def make_layers(self, in_channels: int, channels: int, stride: int) -> None:
        """Create the convolutions and normalizations."""
        self.conv1 = convolution(in_channels, channels, kernel=3, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, kernel=3)
        self.bn2 = nn.BatchNorm2d(channels)

    def layers(self) -> Layers:
        """Return the convolutions in order, each with its normalization."""
        return (self.conv1, self.bn1), (self.conv2, self.bn2)


class Bottleneck(ResidualBlock):
    """1×1, 3×3 and 1×1 convolutions (Fig. 5, right); the stride is in the first 1×1, as in the paper."""

    expansion = 4

    def make_layers(self, in_channels: int, channels: int, stride: int) -> None:
        """Create the convolutions and normalizations."""
        self.conv1 = convolution(in_channels, channels, kernel=1, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = convolution(channels, channels, kernel=3)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = convolution(channels, channels * self.expansion, kernel=1)
        self.bn3 = nn.BatchNorm2d(channels * self.expansion)

    def layers(self) -> Layers:
        """Return the convolutions in order, each with its normalization."""
        return (self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)


def stage(
    block: type[ResidualBlock], in_channels: int, channels: int, blocks: int, stride: int, style: Style
) -> nn.Sequential:
    """Build a sequence of blocks at one map size; only the first one changes the size."""
    first = block(in_channels, channels, stride, style)
    rest = (block(channels * block.expansion, channels, 1, style) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)
