"""The CIFAR networks of He et al.: 2015 (arXiv:1512.03385) §4.2, and the bottlenecks of 2016 (arXiv:1603.05027)."""

import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.blocks import BasicBlock, Bottleneck, Style, stage
from gradlab.models.residual_units import after_last
from gradlab.models.shortcuts import convolution


class CifarNet(nn.Module):
    """A 3×3 stem, three stages of n blocks at map sizes 32, 16 and 8, global average pooling and a classifier.

    Args:
        depth: The number of weighted layers: 6n + 2, or 9n + 2 with bottlenecks.
        style: The design of the blocks; without a shortcut option it is a plain net.
        width: The number of channels of the first stage (16 in the papers), with 4× as many between bottlenecks; the
            later stages have 2× and 4× as many.
        classes: The number of outputs of the classifier.
        bottleneck: Whether the blocks are bottlenecks.
    """

    input_shape = (3, 32, 32)

    def __init__(
        self, depth: int, style: Style, width: int = 16, classes: int = 10, *, bottleneck: bool = False
    ) -> None:
        super().__init__()
        block = Bottleneck if bottleneck else BasicBlock
        blocks, grown = (depth - 2) // (9 if bottleneck else 6), width * block.expansion
        self.conv1 = convolution(3, width, kernel=3)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(block, width, width, blocks, 1, style)
        self.layer2 = stage(block, grown, 2 * width, blocks, 2, style)
        self.layer3 = stage(block, 2 * grown, 4 * width, blocks, 2, style)
        self.last = after_last(style.unit, 4 * grown)
        self.fc = nn.Linear(4 * grown, classes)
        if style.unit == "preact":
            # Both paths of the first block share the stem's activation; a second ReLU changes nothing.
            self.layer1[0].bn1 = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))  # (B, w, 32, 32)
        x = self.layer1(x)  # (B, w, 32, 32), 4 w with bottlenecks
        x = self.layer2(x)  # (B, 2w, 16, 16)
        x = self.last(self.layer3(x))  # (B, 4w, 8, 8)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]
