"""VGG for ImageNet (Simonyan and Zisserman 2014, arXiv:1409.1556, Table 1), without dropout."""

from itertools import pairwise

from torch import Tensor, nn

from gradlab.models.shortcuts import convolution

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Number of 3×3 convolutions in the five stages, by depth: configurations A, B, D and E."""

CHANNELS = (3, 64, 128, 256, 512, 512)
"""Number of channels of the image and of the stages."""


class VGG(nn.Module):
    """Five stages of 3×3 convolutions with ReLUs and 2×2 max pooling, and three linear layers.

    Args:
        depth: The number of weighted layers: 11, 13, 16 or 19.
        classes: The number of outputs of the classifier.
    """

    input_shape = (3, 224, 224)

    def __init__(self, depth: int, classes: int = 1000) -> None:
        super().__init__()
        sizes = zip(pairwise(CHANNELS), CONVOLUTIONS[depth], strict=True)
        self.layer1, self.layer2, self.layer3, self.layer4, self.layer5 = (
            _stage(*channels, count) for channels, count in sizes
        )
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, 3, 224, 224) to logits (B, classes)."""
        x = self.layer1(x)  # (B, 64, 112, 112)
        x = self.layer2(x)  # (B, 128, 56, 56)
        x = self.layer3(x)  # (B, 256, 28, 28)
        x = self.layer4(x)  # (B, 512, 14, 14)
        x = self.layer5(x)  # (B, 512, 7, 7)
        return self.classifier(x.flatten(1))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, count: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for place in range(count):
        layers += [convolution(channels if place else in_channels, channels, kernel=3, bias=True), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2))
