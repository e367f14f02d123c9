"""Images by name, read a slice at a time: bundled, in files, downloaded, or noise."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from platformdirs import user_cache_dir
from torch import Tensor

from gradlab.array_files import read_images
from gradlab.errors import GradlabError, UsageError
from gradlab.image_files import image_paths, read_image

NAMES = (
    "cifar10-sample",
    "cifar10",
    "cifar10-train",
    "cifar100",
    "cifar100-train",
    "imagefolder:PATH",
    "PATH.npz",
    "noise",
)


MOST_SEED = 2**40
"""Seeds of noise are below this."""


def data_folder() -> Path:
    """Where data sets lie: `$GRADLAB_DATA`, by default the user cache directory."""
    return Path(os.environ.get("GRADLAB_DATA") or user_cache_dir("gradlab"))


class Dataset(Protocol):
    """Images that can be read a slice at a time.

    Attributes:
        name: As asked for.
        classes: Number of classes; None without labels.
        normalized: Whether the images already are network inputs, as noise is.
        default_normalization: The spec to use where the weights say nothing.
    """

    name: str
    classes: int | None
    normalized: bool
    default_normalization: str

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Images (B, C, H, W), uint8 or floating point, and labels (B,) or None."""


@dataclass
class ArrayImages:
    """Images in memory: pixels (N, C, H, W), uint8 or float, and labels (N,)."""

    name: str
    pixels: Tensor
    labels: Tensor | None
    classes: int | None
    default_normalization: str = "cifar10"
    normalized: bool = False

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """A slice, at its own size."""
        return self.pixels[start:stop], None if self.labels is None else self.labels[start:stop]


@dataclass
class NoiseImages:
    """Standard Gaussian noise; image i depends on the seed and i alone, whatever the batches."""

    seed: int
    name: str = "noise"
    classes: int | None = None
    normalized: bool = True
    default_normalization: str = "none"

    def __post_init__(self) -> None:
        # The generator's seed is a number of 64 bits, and each image has its own.
        if not 0 <= self.seed < MOST_SEED:
            raise UsageError(f"a seed of noise is from 0 to below 2^40; got {str(self.seed)[:40]}")

    def __len__(self) -> int:
        return 1000

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Noise of the network's input shape."""
        generator = torch.Generator()
        images = [
            torch.randn(size, generator=generator.manual_seed(self.seed * 1_000_003 + i)) for i in range(start, stop)
        ]
        return torch.stack(images), None


@dataclass
class FolderImages:
    """Image files, in one subfolder a class or all in one folder; read when asked for."""

    name: str
    paths: list[Path]
    labels: list[int] | None
    classes: int | None
    normalized: bool = False
    default_normalization: str = "imagenet"

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Images resized and cropped at the centre to `size`; the crop is 7/8 of the shorter side from 64 up."""
        from torchvision.transforms import v2

        height, width = size[1:]
        shorter = round(max(height, width) / 0.875) if max(height, width) >= 64 else max(height, width)
        transform = v2.Compose([v2.PILToTensor(), v2.Resize(shorter, antialias=True), v2.CenterCrop((height, width))])
        pixels = []
        for path in self.paths[start:stop]:
            pixels.append(transform(read_image(path)))
        labels = None if self.labels is None else torch.tensor(self.labels[start:stop])
        return torch.stack(pixels), labels


def load_dataset(data: str, seed: int = 0) -> Dataset:
    """Find a data set by name; see `batches` for the names and the errors."""
    if data == "noise":
        return NoiseImages(seed)
    if data == "cifar10-sample":
        return _sample()
    if data in ("cifar10", "cifar10-train", "cifar100", "cifar100-train"):
        return _cifar(data)
    if data.startswith("imagefolder:"):
        return _image_folder(data, _path(data.removeprefix("imagefolder:")))
    if data.removesuffix(":train").endswith(".npz"):
        path = _path(data.removesuffix(":train"))
        return _npz(data, path, "train" if data.endswith(":train") else "test")
    raise UsageError(f"unknown data {data!r}: give {', '.join(NAMES[:-1])} or {NAMES[-1]}")


def _path(text: str) -> Path:
    """A path as a user gives it; that of an unknown user's home stays as it is, and is not there."""
    return Path(os.path.expanduser(text))


def _sample() -> ArrayImages:
    from PIL import Image

    folder = files("gradlab.assets")
    with (folder / "cifar10-sample.png").open("rb") as file, Image.open(file) as sprite:
        pixels = torch.from_numpy(np.array(sprite).reshape(-1, 32, 32, 3))
    labels = json.loads((folder / "cifar10-sample.json").read_text(encoding="utf-8"))["labels"]
    return ArrayImages("cifar10-sample", _channels_first(pixels), torch.tensor(labels), 10)


def _cifar(data: str) -> ArrayImages:
    """`$GRADLAB_DATA/cifar10.npz`, else torchvision's copy, else a download through torchvision."""
    name, train = data.removesuffix("-train"), data.endswith("-train")
    folder = data_folder()
    array_file = folder / f"{name}.npz"
    if array_file.exists():
        found = _npz(data, array_file, "train" if train else "test")
        return replace(found, default_normalization=name, classes=10 if name == "cifar10" else 100)
    from torchvision import datasets

    kind: Any = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
    try:
        try:
            copy = kind(folder, train=train)
        except RuntimeError:
            print(f"downloading {name} into {folder}", file=sys.stderr)
            with contextlib.redirect_stdout(sys.stderr):
                copy = kind(folder, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise GradlabError(
            f"{name} is not in {folder} and could not be downloaded ({error}): put {name}.npz there (arrays "
            f"x_train, y_train, x_test, y_test) or torchvision's folder {kind.base_folder}, or set GRADLAB_DATA "
            "to where it is"
        ) from None
    pixels = _channels_first(torch.from_numpy(copy.data))
    return ArrayImages(data, pixels, torch.tensor(copy.targets), len(copy.classes), name)


def _npz(name: str, path: Path, part: str) -> ArrayImages:
    x, y = read_images(path, part)
    pixels = torch.from_numpy(x)
    pixels = _channels_first(pixels) if x.shape[3] in (1, 3) else pixels.contiguous()
    return ArrayImages(name, pixels, None if y is None else torch.from_numpy(y), None)


def _image_folder(name: str, folder: Path) -> FolderImages:
    from torchvision.datasets.folder import IMG_EXTENSIONS

    if name == "imagefolder:" or not os.path.isdir(folder):
        raise UsageError(
            f"{name}: {folder} is not a folder of images" if name != "imagefolder:" else f"{name} names no folder"
        )
    paths = list(image_paths(folder, IMG_EXTENSIONS))
    if not paths:
        raise GradlabError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    class_names = sorted({p.relative_to(folder).parts[0] for p in paths if p.parent != folder})
    if not class_names or any(p.parent == folder for p in paths):
        return FolderImages(name, paths, None, None)
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    labels = [numbers[p.relative_to(folder).parts[0]] for p in paths]
    return FolderImages(name, paths, labels, len(class_names))


def _channels_first(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).contiguous()
