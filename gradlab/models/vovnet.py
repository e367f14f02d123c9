"""VoVNet (Lee et al. 2019, arXiv:1904.09730, Table 1), and its CIFAR form.

A one-shot aggregation (OSA) module applies five 3×3 convolutions in sequence and concatenates its input with all their
outputs once, at its end. The ImageNet form is that of Table 1. The CIFAR form is not in the paper: it has the same
modules after a stem without strides, so that the four stages have map sizes 32, 16, 8 and 4.
"""

import torch
from torch import Tensor, nn

from gradlab.models.shortcuts import convolution

MODULES = {27: (1, 1, 1, 1), 39: (1, 1, 2, 2), 57: (1, 1, 4, 3)}
"""Number of OSA modules in stages 2 to 5, by depth, which counts the convolutions of the stem and of all modules."""

CONVOLUTIONS = 5
"""Number of 3×3 convolutions of an OSA module."""


class OSA(nn.Module):
    """Five 3×3 convolutions in sequence, and a 1×1 convolution of their concatenated outputs and the input.

    Args:
        in_channels: The number of input channels.
        channels: The number of outputs of every 3×3 convolution.
        out_channels: The number of outputs of the 1×1 convolution.
    """

    def __init__(self, in_channels: int, channels: int, out_channels: int) -> None:
        super().__init__()
        inputs = [in_channels] + [channels] * (CONVOLUTIONS - 1)
        self.convs = nn.ModuleList(normalized(count, channels, kernel=3) for count in inputs)
        self.concat = normalized(in_channels + CONVOLUTIONS * channels, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H, W)."""
        outputs = [x]
        for conv in self.convs:
            outputs.append(conv(outputs[-1]))
        return self.concat(torch.cat(outputs, dim=1))  # type: ignore[no-any-return]


class VoVNet(nn.Module):
    """A stem of three 3×3 convolutions, four stages of OSA modules with max pooling between, and a classifier.

    Args:
        depth: The number of convolutions: 27, 39 or 57.
        classes: The number of outputs of the classifier.
        width: The number of outputs of the first stage's convolutions; 0 means 128, or 64 in the slim form. The later
            stages have 1.25, 1.5 and 1.75 times as many.
        slim: Whether the stem has as many channels as the first stage, rather than half as many.
        imagenet: Whether the stem has a stride of 4 rather than 1.
    """

    def __init__(
        self, depth: int, classes: int = 1000, width: int = 0, slim: bool = False, imagenet: bool = True
    ) -> None:
        super().__init__()
        width = width or default_width(slim)
        self.input_shape = (3, 224, 224) if imagenet else (3, 32, 32)
        stride = 2 if imagenet else 1
        stem = width if slim else width // 2  # 64 in both forms of the paper
        self.stem = nn.Sequential(
            normalized(3, stem, kernel=3, stride=stride),
            normalized(stem, stem, kernel=3),
            normalized(stem, 2 * stem, kernel=3, stride=stride),
        )
        channels = [width + place * width // 4 for place in range(4)]  # 1, 1.25, 1.5 and 1.75 times
        outputs = [2 * stem, *(2 * (place + 1) * width for place in range(4))]
        self.stage2 = stage(outputs[0], channels[0], outputs[1], MODULES[depth][0])
        self.stage3 = stage(outputs[1], channels[1], outputs[2], MODULES[depth][1])
        self.stage4 = stage(outputs[2], channels[2], outputs[3], MODULES[depth][2])
        self.stage5 = stage(outputs[3], channels[3], outputs[4], MODULES[depth][3])
        self.pool = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self.fc = nn.Linear(outputs[4], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = self.stage2(self.stem(x))  # (B, 2w, H / 4, W / 4); CIFAR: (B, 2w, 32, 32)
        x = self.stage3(self.pool(x))  # (B, 4w, H / 8, W / 8)
        x = self.stage4(self.pool(x))  # (B, 6w, H / 16, W / 16)
        x = self.stage5(self.pool(x))  # (B, 8w, H / 32, W / 32)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


def default_width(slim: bool) -> int:
    """Return the number of outputs of the first stage's convolutions in Table 1."""
    return 64 if slim else 128


def normalized(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Build a convolution, batch normalization and ReLU."""
    conv = convolution(in_channels, out_channels, kernel, stride)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())


def stage(in_channels: int, channels: int, out_channels: int, modules: int) -> nn.Sequential:
    """Build a sequence of OSA modules at one map size."""
    rest = (OSA(out_channels, channels, out_channels) for _ in range(modules - 1))
    return nn.Sequential(OSA(in_channels, channels, out_channels), *rest)
