"""Random crops and mirror images of whole batches, on the device, drawn from an explicit seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_EPOCHS = 1_000_003


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch shows: a function of seed and epoch alone, so that a resumed run sees the same.

    Attributes:
        order: (N,) the images' numbers.
        offsets: (N, 2) int64, rows and columns of the crops, from 0 to twice the padding.
        mirrored: (N,) bool.
    """

    order: Tensor
    offsets: Tensor
    mirrored: Tensor

    @classmethod
    def draw(cls, seed: int, epoch: int, images: int, padding: int, flip: bool) -> EpochPlan:
        """Draw a plan on the CPU, whatever the device of the images.

        Args:
            seed: Of the run.
            epoch: From 0.
            images: How many there are.
            padding: Zeros around an image.
            flip: Whether half of the images are mirrored.
        """
        generator = torch.Generator().manual_seed((seed * _EPOCHS + epoch) % 2**63)
        order = torch.randperm(images, generator=generator)
        offsets = torch.randint(2 * padding + 1, (images, 2), generator=generator)
        mirrored = torch.rand(images, generator=generator) < (0.5 if flip else 0.0)
        return cls(order, offsets, mirrored)

    def to(self, device: torch.device) -> EpochPlan:
        """The plan on a device."""
        return EpochPlan(self.order.to(device), self.offsets.to(device), self.mirrored.to(device))


def crop_and_flip(images: Tensor, padding: int, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Shift images over a border of zeros, and mirror some (He et al. 2015, §4.2).

    Args:
        images: (B, C, H, W), normalized: the border's zeros are the mean colour.
        padding: Zeros on each side.
        offsets: (B, 2) int64, where each crop begins in the padded image; `padding` is the image itself.
        mirrored: (B,) bool.

    Returns:
        (B, C, H, W), of the same dtype.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W), a view
    crops = windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
