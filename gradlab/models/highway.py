"""Highway networks for CIFAR (Srivastava et al. 2015, arXiv:1505.00387 and 1507.06228).

A highway layer computes y = H(x)·T(x) + x·(1 − T(x)) with H(x) = ReLU(W_H * x + b_H) and the transform gate
T(x) = σ(W_T * x + b_T). b_T is initialized below 0, so that layers at first carry their input through. Layers that
change the number of channels are plain convolutions.

The 19-layer network has the layers of FitNet-4 (1507.06228, Table 2) with the widths of the authors' published Caffe
network. For the 32-layer network the papers state only the depth and 1.25 M parameters; stages of ten layers with 32,
48 and 64 channels match both. The dropout with which the authors train is not part of the network.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.shortcuts import GateConvolution, convolution

STAGES = {19: ((32, 5), (80, 6), (128, 6)), 32: ((32, 10), (48, 10), (64, 10))}
"""Channels and number of 3×3 layers of the three stages, by depth; a 1×1 convolution and the classifier follow."""

WIDTH = 32
"""Channels of the first stage of both networks."""

LAST_CHANNELS = {19: 100, 32: 10}
"""Outputs of the 1×1 convolution; the authors' 19-layer network has 100 for CIFAR-10 as well."""


class HighwayLayer(nn.Module):
    """The layer H(x)·T(x) + x·(1 − T(x)), where H and T are 3×3 convolutions.

    Args:
        channels: The number of channels of input and output.
        bias: The initial value of b_T.
    """

    def __init__(self, channels: int, bias: float) -> None:
        super().__init__()
        self.transform = convolution(channels, channels, kernel=3, bias=True)
        self.shortcut_gate = GateConvolution(channels, channels, kernel=3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H, W)."""
        gate = torch.sigmoid(self.shortcut_gate(x))
        return gate * F.relu(self.transform(x)) + (1 - gate) * x


class HighwayNet(nn.Module):
    """Three stages at map sizes 32, 16 and 8, each a plain convolution and highway layers, with max pooling between.

    Args:
        depth: The number of weighted layers, 19 or 32, where a layer and its gate count as one.
        classes: The number of outputs of the classifier.
        bias: The initial bias of the transform gates (−2 in the authors' network).
        width: The number of channels of the first stage, which is 32 in the authors' networks; the other stages are
            scaled with it.
    """

    input_shape = (3, 32, 32)

    def __init__(self, depth: int, classes: int = 10, bias: float = -2.0, width: int = WIDTH) -> None:
        super().__init__()
        first, second, third = (max(1, channels * width // WIDTH) for channels, _ in STAGES[depth])
        counts = [count for _, count in STAGES[depth]]
        self.layer1 = _stage(3, first, counts[0], bias)
        self.layer2 = _stage(first, second, counts[1], bias)
        self.layer3 = _stage(second, third, counts[2], bias)
        self.pool = nn.MaxPool2d(2)
        self.conv = convolution(third, LAST_CHANNELS[depth], kernel=1, bias=True)
        self.fc = nn.Linear(LAST_CHANNELS[depth], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = self.layer1(x)  # (B, w1, 32, 32)
        x = self.layer2(self.pool(x))  # (B, w2, 16, 16)
        x = self.layer3(self.pool(x))  # (B, w3, 8, 8)
        x = F.relu(self.conv(x)).mean((2, 3))  # (B, 100), or (B, 10)
        return self.fc(x)  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, layers: int, bias: float) -> nn.Sequential:
    first = nn.Sequential(convolution(in_channels, channels, kernel=3, bias=True), nn.ReLU())
    return nn.Sequential(first, *(HighwayLayer(channels, bias) for _ in range(layers - 1)))
