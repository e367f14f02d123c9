"""The CIFAR networks of He et al. 2015 (arXiv:1512.03385) §4.2: residual and plain, of any depth 6n + 2."""

import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.blocks import ShortcutOption, convolution, stage
from gradlab.models.residual_units import UNITS, PreActivation, Unit


class CifarNet(nn.Module):
    """A 3×3 stem, three stages of n blocks at map sizes 32, 16, 8, global average pooling, a classifier.

    Args:
        depth: Weighted layers, 6n + 2.
        option: Shortcut option A, B or C; None builds the plain net of the same layers.
        width: Channels of the first stage (16 in the paper); the later stages have 2× and 4×.
        classes: Outputs of the classifier.
        beta: β of the residual branches, x + β·F(x); 1 in the paper.
        shortcut_scale: λ of the shortcuts, λ·x + F(x); 1 in the paper.
        unit: Where normalization and ReLU stand in a block.
    """

    input_shape = (3, 32, 32)

    def __init__(
        self,
        depth: int,
        option: ShortcutOption | None = "A",
        width: int = 16,
        classes: int = 10,
        beta: float = 1.0,
        shortcut_scale: float = 1.0,
        unit: Unit = "original",
    ) -> None:
        super().__init__()
        blocks, block = (depth - 2) // 6, UNITS[unit]
        scales = {"beta": beta, "shortcut_scale": shortcut_scale}
        self.conv1 = convolution(3, width, kernel=3)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = stage(block, width, width, blocks, 1, option, **scales)
        self.layer2 = stage(block, width, 2 * width, blocks, 2, option, **scales)
        self.layer3 = stage(block, 2 * width, 4 * width, blocks, 2, option, **scales)
        self.last = block.after_last(4 * width)
        self.fc = nn.Linear(4 * width, classes)
        first = self.layer1[0]
        if isinstance(first, PreActivation):
            first.share_activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = F.relu(self.bn1(self.conv1(x)))  # (B, w, 32, 32)
        x = self.layer1(x)  # (B, w, 32, 32)
        x = self.layer2(x)  # (B, 2w, 16, 16)
        x = self.last(self.layer3(x))  # (B, 4w, 8, 8)
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]
