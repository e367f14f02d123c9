"""Shortcut connections: identity, zero-padding and projections (He et al. 2015), and those that interfere (2016).

He et al. 2015 (arXiv:1512.03385), §3.3 and §4.1: options A, B and C. He et al. 2016 (arXiv:1603.05027), Fig. 2 and
Table 1, compare the identity with shortcuts that scale, gate or drop the signal; the 1×1 convolution of that table is
option C.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ShortcutOption = Literal["A", "B", "C"]
"""A: zero-padding; B: projections where the size changes; C: projections in every block (§4.1)."""


@dataclass(frozen=True)
class Gate:
    """How a block gates its shortcut: (1 − g(x))·x, with g = σ(W·x + b), a 1×1 convolution (Fig. 2 c and d).

    Attributes:
        bias: b as initialized, the same for all channels. At −6, 1 − g begins at 0.998.
        exclusive: Whether the branch is multiplied by g, as in highway networks; otherwise only the shortcut is gated.
    """

    bias: float
    exclusive: bool


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


def shortcut(
    in_channels: int, out_channels: int, stride: int, option: ShortcutOption, *, normalized: bool = True
) -> nn.Module:
    """The shortcut connection of one block, by option A, B or C of §4.1.

    Args:
        in_channels: Channels of the block's input.
        out_channels: Channels of its output.
        stride: Of the block.
        option: A, B or C.
        normalized: Whether batch normalization follows a projection.
    """
    same_size = stride == 1 and in_channels == out_channels
    if option == "C" or (option == "B" and not same_size):
        projection = convolution(in_channels, out_channels, kernel=1, stride=stride)
        return nn.Sequential(projection, nn.BatchNorm2d(out_channels)) if normalized else nn.Sequential(projection)
    return nn.Identity() if same_size else ZeroPadShortcut(in_channels, out_channels, stride)


class GateConvolution(nn.Conv2d):
    """The convolution of a gate, whose biases begin below 0, so that shortcuts begin open.

    Attributes:
        initial_bias: What every bias is as initialized.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, bias: float) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.initial_bias = bias


class ShortcutDropout(nn.Module):
    """Drops the shortcut's values in training and scales them by 1 − p otherwise (Fig. 2 f).

    What is kept is not scaled up: "dropout statistically imposes a scale of λ with an expectation of 0.5" (§3.1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same."""
        if not self.training:
            return (1 - self.p) * x
        return x * torch.bernoulli(torch.full_like(x, 1 - self.p))
