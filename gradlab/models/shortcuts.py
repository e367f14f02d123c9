"""Shortcut connections: identity, zero-padding and projections, and scaled, gated or dropped shortcuts.

Options A, B and C are those of He et al. 2015 (arXiv:1512.03385), §3.3 and §4.1. He et al. 2016 (arXiv:1603.05027),
Fig. 2 and Table 1, compare the identity with shortcuts that scale, gate or drop the signal; the 1×1 convolution of
that table is option C.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ShortcutOption = Literal["A", "B", "C"]
"""Option A is zero-padding, B projections where the size changes, C projections in every block (§4.1)."""


@dataclass(frozen=True)
class Gate:
    """A gate (1 − g(x))·x on the shortcut, with a 1×1 convolution g = σ(W·x + b) (Fig. 2 c and d).

    Attributes:
        bias: The initial value of b for all channels. At −6, 1 − g starts at 0.998.
        exclusive: Whether the branch is multiplied by g, as in highway networks, or only the shortcut is gated.
    """

    bias: float
    exclusive: bool


def convolution(in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    """Build a convolution that preserves the map size at stride 1."""
    return nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=bias)


class ZeroPadShortcut(nn.Module):
    """Option A: the identity, subsampled and padded with zero channels, without parameters.

    The paper does not say where the zeros go. Half of them precede and half follow the input's channels, as in the
    most widely used CIFAR implementation, so that its published weights can be used here.
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
    """Build the shortcut connection of one block by option A, B or C of §4.1.

    Args:
        in_channels: The number of channels of the block's input.
        out_channels: The number of channels of the block's output.
        stride: The stride of the block.
        option: The shortcut option A, B or C.
        normalized: Whether batch normalization follows a projection.
    """
    same_size = stride == 1 and in_channels == out_channels
    if option == "C" or (option == "B" and not same_size):
        projection = convolution(in_channels, out_channels, kernel=1, stride=stride)
        return nn.Sequential(projection, nn.BatchNorm2d(out_channels)) if normalized else nn.Sequential(projection)
    return nn.Identity() if same_size else ZeroPadShortcut(in_channels, out_channels, stride)


class GateConvolution(nn.Conv2d):
    """The convolution of a gate, whose biases are usually initialized below 0, so that shortcuts start open.

    Attributes:
        initial_bias: The initial value of every bias.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, *, bias: float) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=kernel // 2)
        self.initial_bias = bias


class ShortcutDropout(nn.Module):
    """Drops each of the shortcut's values with probability p in training, and scales by 1 − p otherwise (Fig. 2 f).

    The remaining values are not scaled up: "dropout statistically imposes a scale of λ with an expectation of 0.5"
    (§3.1).
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        if not self.training:
            return (1 - self.p) * x
        return x * torch.bernoulli(torch.full_like(x, 1 - self.p))
