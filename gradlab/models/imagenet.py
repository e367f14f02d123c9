"""The ImageNet networks of He et al. 2015 (arXiv:1512.03385), Table 1 and §3.3: residual and plain."""

import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.blocks import BasicBlock, Bottleneck, ResidualBlock, Style, stage
from gradlab.models.shortcuts import ShortcutOption

STAGES: dict[int, tuple[type[ResidualBlock], tuple[int, int, int, int]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Table 1: the block and the number of blocks in conv2_x to conv5_x, by depth."""


def paper_option(depth: int) -> ShortcutOption:
    """Return the paper's default shortcut option: A up to 34 layers (Table 2), B from 50 (§4.1)."""
    return "A" if depth < 50 else "B"


class ImageNetNet(nn.Module):
    """A 7×7 stem, 3×3 max pooling, four stages of blocks, global average pooling and a classifier.

    Args:
        depth: The number of weighted layers: 18, 34, 50, 101 or 152.
        style: The design of the blocks; without a shortcut option it is a plain net.
        width: The number of channels of the first stage (64 in the paper).
        classes: The number of outputs of the classifier.
    """

    input_shape = (3, 224, 224)

    def __init__(self, depth: int, style: Style, width: int = 64, classes: int = 1000) -> None:
        super().__init__()
        block, counts = STAGES[depth]
        grown = width * block.expansion
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, width, width, counts[0], 1, style)
        self.layer2 = stage(block, grown, 2 * width, counts[1], 2, style)
        self.layer3 = stage(block, 2 * grown, 4 * width, counts[2], 2, style)
        self.layer4 = stage(block, 4 * grown, 8 * width, counts[3], 2, style)
        self.fc = nn.Linear(8 * grown, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))  # (B, w, 112, 112)
        x = self.layer1(self.maxpool(x))  # (B, w, 56, 56), 4 w with bottlenecks
        x = self.layer2(x)  # (B, 2w, 28, 28)
        x = self.layer3(x)  # (B, 4w, 14, 14)
        x = self.layer4(x)  # (B, 8w, 7, 7)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]
