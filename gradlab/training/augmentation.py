"""Random crops and flips of batches on the device, drawn from an explicit seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gradlab.transfer import uploaded

_EPOCHS = 1_000_003


@dataclass(frozen=True)
class EpochPlan:
    """The order and augmentation of the images in one epoch.

    It depends only on the seed and the epoch, so that a resumed run sees the same images.

    Attributes:
        order: The indices of the images, int64 of shape (N,).
        offsets: The rows and columns of the crops, from 0 to twice the padding, int64 of shape (N, 2).
        mirrored: Whether each image is mirrored, bool of shape (N,).
    """

    order: Tensor
    offsets: Tensor
    mirrored: Tensor

    @classmethod
    def draw(cls, seed: int, epoch: int, images: int, padding: int, flip: bool) -> EpochPlan:
        """Draw a plan on the CPU, whatever the device of the images.

        Args:
            seed: The seed of the run.
            epoch: The number of the epoch, from 0.
            images: The number of images.
            padding: The number of zeros on each side of an image.
            flip: Whether half of the images are mirrored.
        """
        generator = torch.Generator().manual_seed((seed * _EPOCHS + epoch) % 2**63)
        order = torch.randperm(images, generator=generator)
        offsets = torch.randint(2 * padding + 1, (images, 2), generator=generator)
        mirrored = torch.rand(images, generator=generator) < (0.5 if flip else 0.0)
        return cls(order, offsets, mirrored)

    def to(self, device: torch.device) -> EpochPlan:
        """Copy the plan to a device, which is not waited for."""
        return EpochPlan(*(uploaded(values, device) for values in (self.order, self.offsets, self.mirrored)))


def crop_and_flip(images: Tensor, padding: int, offsets: Tensor, mirrored: Tensor) -> Tensor:
    """Crop zero-padded images at random offsets, and mirror some of them (He et al. 2015, §4.2).

    Args:
        images: Normalized images of shape (B, C, H, W), so that the padding has the mean colour.
        padding: The number of zeros on each side.
        offsets: The position of each crop in the padded image, int64 of shape (B, 2); `padding` selects the original.
        mirrored: Whether each image is mirrored, bool of shape (B,).

    Returns:
        Images of the same shape and dtype.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (B, C, 2p + 1, 2p + 1, H, W), a view
    crops = windows[torch.arange(len(images), device=images.device), :, offsets[:, 0], offsets[:, 1]]
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)
