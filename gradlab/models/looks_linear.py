"""Looks-linear networks (Balduzzi et al. 2017, arXiv:1702.08591, §5): plain nets that are linear at initialization."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradlab.models.shortcuts import convolution


def crelu(x: Tensor) -> Tensor:
    """Apply the concatenated ReLU, (relu(x), relu(−x)), from (B, C, …) to (B, 2 C, …), which loses no information.

    See Shang et al. 2016 (arXiv:1603.05201), Definition 2.1. At 0 only the second half has a nonzero derivative. A
    few of millions of float32 values are exactly 0; if both halves had derivative 0 there, as with relu(−x), the
    gradient of a linear net would have gaps.
    """
    positive = F.relu(x)
    return torch.cat((positive, positive - x), dim=1)


class LooksLinearBlock(nn.Module):
    """Two 3×3 convolutions, each preceded by a CReLU."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = convolution(2 * in_channels, channels, kernel=3, stride=stride, bias=True)
        self.conv2 = convolution(2 * channels, channels, kernel=3, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return self.conv2(crelu(self.conv1(crelu(x))))  # type: ignore[no-any-return]


class LooksLinearNet(nn.Module):
    """The plain CIFAR net of He et al. 2015 (arXiv:1512.03385, §4.2) with CReLU in place of ReLU.

    It has no normalization, so that it is exactly linear at initialization; the convolutions have biases instead,
    which start at 0. Every convolution has as many outputs as in the plain net, and twice as many inputs if it
    follows a CReLU. Without normalization it needs a smaller learning rate than the plain net: with 20 layers and
    momentum 0.9, it trains at 0.01 and diverges immediately at 0.1.

    Args:
        depth: The number of weighted layers, 6n + 2.
        width: The number of outputs of the first stage's convolutions (16 in the paper); the later stages have 2× and
            4× as many.
        classes: The number of outputs of the classifier.
    """

    input_shape = (3, 32, 32)

    def __init__(self, depth: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1 = convolution(3, width, kernel=3, bias=True)
        self.layer1 = _stage(width, width, blocks, 1)
        self.layer2 = _stage(width, 2 * width, blocks, 2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, 2)
        self.fc = nn.Linear(8 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, classes)."""
        x = self.conv1(x)  # (B, w, 32, 32)
        x = self.layer1(x)  # (B, w, 32, 32)
        x = self.layer2(x)  # (B, 2w, 16, 16)
        x = self.layer3(x)  # (B, 4w, 8, 8)
        return self.fc(crelu(x).mean((2, 3)))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (LooksLinearBlock(channels, channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(LooksLinearBlock(in_channels, channels, stride), *rest)


@torch.no_grad()
def looks_linear_initialize(model: nn.Module, seed: int) -> nn.Module:
    """Initialize in place with mirrored orthogonal blocks (W′, −W′) and biases 0 (§5.1).

    Since (W′, −W′)·CReLU(x) = W′ x, the network is a product of orthogonal maps. W′ is Haar distributed and occupies
    the centre tap of a convolution, while all other taps are 0; where the number of channels changes, its rows or
    columns are orthonormal. The stem, whose input is the image rather than a CReLU, has a single block.

    Args:
        model: A `LooksLinearNet`.
        seed: The seed of the weights.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        mirrored = name != "conv1"
        outputs, inputs = layer.weight.shape[:2]
        block = torch.empty(outputs, inputs // 2 if mirrored else inputs)
        nn.init.orthogonal_(block, generator=generator)
        matrix = torch.cat((block, -block), dim=1) if mirrored else block
        layer.weight.zero_()
        centre = layer.weight[:, :, 1, 1] if isinstance(layer, nn.Conv2d) else layer.weight
        centre.copy_(matrix)
        layer.bias.zero_()  # type: ignore[union-attr]
    return model
