"""Synthetic images with boxes, for detectors: coloured rectangles on a dim, noisy ground."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.data.datasets import Asked, Items

BOXES = 3
"""The number of rectangles in an image."""

CLASSES = 3
"""The number of classes: rectangles in red, green and blue are of the classes 1, 2 and 3."""

LEAST, MOST = 0.15, 0.6
"""The sides of rectangles, as fractions of those of the image."""


@dataclass
class BoxImages:
    """Images of rectangles from 0 to 1, with the boxes as labels; image i depends only on the seed and i.

    Later rectangles cover earlier ones. A label is (n, 5): the class, from 1, and the corners x₁, y₁, x₂, y₂ in pixels.
    """

    seed: int
    name: str = "boxes"
    classes: int | None = None
    normalized: bool = True
    default_normalization: str = "none"
    items: Items = "images"

    def __len__(self) -> int:
        return 50_000

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Draw images of the given size, and their boxes (B, n, 5)."""
        drawn = [self._draw(place, *size[1:]) for place in range(start, stop)]
        return torch.stack([image for image, _ in drawn]), torch.stack([boxes for _, boxes in drawn])

    def largest_label(self, stop: int) -> int | None:
        """See `Dataset`; labels are boxes."""
        return None

    def _draw(self, place: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """One image (3, H, W) and its boxes (n, 5)."""
        generator = torch.Generator().manual_seed((self.seed << 32) + place)
        image = 0.3 * torch.rand(3, height, width, generator=generator)
        kinds = torch.randint(CLASSES, (BOXES,), generator=generator)
        limits = torch.tensor([width, height])
        sides = (LEAST + (MOST - LEAST) * torch.rand(BOXES, 2, generator=generator)) * limits
        corners = torch.rand(BOXES, 2, generator=generator) * (limits - sides)
        boxes = torch.cat((corners, corners + sides), 1).round()
        for kind, (left, top, right, bottom) in zip(kinds.tolist(), boxes.int().tolist(), strict=True):
            image[:, top:bottom, left:right] *= 0.3
            image[kind, top:bottom, left:right] += 0.7
        return image, torch.cat((kinds[:, None] + 1.0, boxes), 1)


def load_boxes(asked: Asked) -> BoxImages:
    """Make synthetic images with boxes."""
    return BoxImages(asked.seed)
