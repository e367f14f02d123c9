"""Normalization of images, specified in a small language that the command line and Python share."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from gradlab.errors import GradlabError, UsageError
from gradlab.transfer import uploaded

CHANNEL_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""Mean and std of each colour over the training images, on a scale from 0 to 1."""

_NUMBERS = re.compile(r"[-\d.,e+]+(/[-\d.,e+]+)?")
GRAMMAR = "imagenet, cifar10, cifar100, mean-image, none, or MEAN/STD as numbers; `:255` after it means 0 to 255"


@dataclass(frozen=True)
class Normalization:
    """The map x ↦ (x·scale − mean) / std, for images stored as bytes.

    It is specified as one of:

    - `imagenet`, `cifar10`, `cifar100`: mean and std of each colour over that training set;
    - `mean-image`: the mean image of CIFAR-10's training set, subtracted pixel by pixel, without division;
    - `none`: no change;
    - `0.5/0.25` or `0.49,0.48,0.45/0.25,0.24,0.26`: mean and std as numbers, for all colours or each.

    Bytes are first divided by 255, except with the suffix `:255` (`mean-image:255`, `127.5/127.5:255`), where the
    numbers are on the scale from 0 to 255.

    Attributes:
        spec: The specification.
    """

    spec: str

    def __post_init__(self) -> None:
        self._statistics()

    def __str__(self) -> str:
        return self.spec

    def __call__(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Normalize images.

        Args:
            images: Images of shape (B, C, H, W), uint8 from 0 to 255 or floating-point from 0 to 1.
            dtype: The dtype of the result; None means float32 for uint8, and the images' own dtype otherwise.

        Returns:
            The normalized images, on the same device.

        Raises:
            GradlabError: If the shape of the mean does not match that of the images.
        """
        _, full_range = self._parts()
        if images.dtype == torch.uint8:
            x = images.to(dtype or torch.float32)
            x = x if full_range else x / 255
        else:
            x = images.to(dtype or images.dtype)
            x = x * 255 if full_range else x
        mean, std = (uploaded(value.to(x.dtype), x.device) for value in self._statistics())
        if mean.numel() > 1 and (mean.shape[0] != x.shape[1] or mean.shape[1:] not in ((1, 1), x.shape[2:])):
            raise GradlabError(
                f"normalization {self.spec!r} is for images of shape {tuple(mean.shape)}, not {tuple(x.shape[1:])}: "
                "give another, as none (--normalize)"
            )
        return (x - mean) / std

    def _parts(self) -> tuple[str, bool]:
        return self.spec.removesuffix(":255"), self.spec.endswith(":255")

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and std of shape (1,), (C, 1, 1) or (C, H, W), on the scale of the specification."""
        name, full_range = self._parts()
        scale = 255.0 if full_range else 1.0
        if name == "none":
            return torch.zeros(1), torch.ones(1)
        if name == "mean-image":
            return _mean_image() * (scale / 255), torch.ones(1)
        if name in CHANNEL_STATISTICS:
            mean, std = (torch.tensor(values, dtype=torch.float64) * scale for values in CHANNEL_STATISTICS[name])
            return mean[:, None, None], std[:, None, None]
        return _numbers(self.spec, name)


def _numbers(spec: str, text: str) -> tuple[Tensor, Tensor]:
    text = text.replace(" ", "")
    mean_text, _, std_text = text.partition("/")
    try:
        if not _NUMBERS.fullmatch(text):
            raise ValueError
        mean, std = (
            torch.tensor([float(n) for n in part.split(",")], dtype=torch.float64)
            for part in (mean_text, std_text or "1")
        )
    except ValueError:
        raise UsageError(f"unknown normalization {spec!r}: give {GRAMMAR}") from None
    if not mean.isfinite().all() or not std.isfinite().all() or not (std > 0).all():
        raise UsageError(f"normalization {spec!r} needs finite means and stds above 0")
    if len(mean) == len(std) == 1:
        return mean, std
    if len(mean) != len(std) and 1 not in (len(mean), len(std)):
        raise UsageError(f"normalization {spec!r} has {len(mean)} means but {len(std)} stds")
    channels = max(len(mean), len(std))
    return mean.expand(channels)[:, None, None], std.expand(channels)[:, None, None]


@cache
def _mean_image() -> Tensor:
    """Return the mean of CIFAR-10's 50,000 training images from 0 to 255, float64 of shape (3, 32, 32)."""
    with (files("gradlab.assets") / "cifar10-mean.npz").open("rb") as file, np.load(file) as arrays:
        return torch.from_numpy(arrays["sum"].astype(np.float64) / int(arrays["count"]))


def split_specs(texts: list[str]) -> list[str]:
    """Split comma-separated normalizations, except at commas within lists of numbers.

    For example, `imagenet,0.5,0.5,0.5/0.2,0.2,0.2,none` contains three normalizations.
    """
    specs: list[str] = []
    for text in texts:
        previous_is_number = False
        for token in text.split(","):
            is_number = bool(re.fullmatch(r"[-\d.e+/]+(:255)?", token))
            if is_number and previous_is_number:
                specs[-1] += f",{token}"
            else:
                specs.append(token)
            previous_is_number = is_number and not token.endswith(":255")
    return specs
