"""DenseNet for CIFAR (Huang et al. 2017, arXiv:1608.06993), with and without bottlenecks and compression (BC)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.shortcuts import convolution

PUBLISHED_FOR_IMAGENET = (121, 161, 169, 201)
"""Depths of the paper's ImageNet networks in torchvision, whose names without a package are ambiguous."""


class DenseLayer(nn.Module):
    """Normalization, ReLU and a 3×3 convolution, whose k channels are appended to the input.

    Args:
        in_channels: The number of input channels.
        growth: The growth rate k.
    """

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, growth, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + k, H, W)."""
        return torch.cat((x, self.conv1(F.relu(self.bn1(x)))), dim=1)


class DenseBottleneck(nn.Module):
    """A `DenseLayer` with a 1×1 convolution to 4k channels before the 3×3 convolution (DenseNet-B)."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = convolution(in_channels, 4 * growth, kernel=1)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = convolution(4 * growth, growth, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + k, H, W)."""
        out = self.conv1(F.relu(self.bn1(x)))
        return torch.cat((x, self.conv2(F.relu(self.bn2(out)))), dim=1)


class Transition(nn.Module):
    """Normalization, ReLU, a 1×1 convolution and 2×2 average pooling."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.conv = convolution(in_channels, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / 2, W / 2)."""
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    """A 3×3 stem, three dense blocks of n layers at map sizes 32, 16 and 8, transitions and a classifier.

    Args:
        depth: The number of weighted layers: 3n + 4, or 6n + 4 with bottlenecks.
        classes: The number of outputs of the classifier.
        growth: The growth rate k, the number of channels that every layer adds.
        bottleneck: Whether it is a DenseNet-BC, with bottlenecks and transitions that halve the channels.
    """

    input_shape = (3, 32, 32)

    def __init__(self, depth: int, classes: int = 10, growth: int = 12, bottleneck: bool = False) -> None:
        super().__init__()
        layers = (depth - 4) // (6 if bottleneck else 3)
        first = 2 * growth if bottleneck else 16
        second = _after(first + layers * growth, bottleneck)
        third = _after(second + layers * growth, bottleneck)
        last = third + layers * growth
        self.conv1 = convolution(3, first, kernel=3)
        self.layer1 = _block(first, layers, growth, bottleneck)
        self.transition1 = Transition(first + layers * growth, second)
        self.layer2 = _block(second, layers, growth, bottleneck)
        self.transition2 = Transition(second + layers * growth, third)
        self.layer3 = _block(third, layers, growth, bottleneck)
        self.bn = nn.BatchNorm2d(last)
        self.fc = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = self.layer1(self.conv1(x))  # (B, C1, 32, 32)
        x = self.layer2(self.transition1(x))  # (B, C2, 16, 16)
        x = self.layer3(self.transition2(x))  # (B, C3, 8, 8)
        return self.fc(F.relu(self.bn(x)).mean((2, 3)))  # type: ignore[no-any-return]


def _block(in_channels: int, layers: int, growth: int, bottleneck: bool) -> nn.Sequential:
    layer = DenseBottleneck if bottleneck else DenseLayer
    return nn.Sequential(*(layer(in_channels + place * growth, growth) for place in range(layers)))


def _after(channels: int, bottleneck: bool) -> int:
    """Return the number of channels after a transition, which compression with θ = 0.5 halves."""
    return channels // 2 if bottleneck else channels
