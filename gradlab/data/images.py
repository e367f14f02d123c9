"""Data sets of images, read in slices: bundled, in files, downloaded, or noise."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from platformdirs import user_cache_dir
from torch import Tensor

from gradlab.data.array_files import read_images
from gradlab.data.datasets import Asked, Items
from gradlab.data.image_files import NOT_READ, image_paths, read_image
from gradlab.errors import GradlabError, UsageError

MOST_SEED = 2**40
"""The exclusive upper bound of the seeds of noise."""


def data_folder() -> Path:
    """The folder of data sets: `$GRADLAB_DATA`, or by default the user cache directory."""
    return Path(os.environ.get("GRADLAB_DATA") or user_cache_dir("gradlab"))


@dataclass
class ArrayImages:
    """Images in memory: pixels (N, C, H, W), uint8 or float, and labels (N,)."""

    name: str
    pixels: Tensor
    labels: Tensor | None
    classes: int | None
    default_normalization: str = "cifar10"
    normalized: bool = False
    items: Items = "images"

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Read a slice of the images in their stored size."""
        return self.pixels[start:stop], None if self.labels is None else self.labels[start:stop]

    def largest_label(self, stop: int) -> int | None:
        """See `Dataset`."""
        return None if self.labels is None else int(self.labels[:stop].max())


@dataclass
class NoiseImages:
    """Standard Gaussian noise; image i depends only on the seed and i, not on the batches."""

    seed: int
    name: str = "noise"
    classes: int | None = None
    normalized: bool = True
    default_normalization: str = "none"
    items: Items = "images"

    def __post_init__(self) -> None:
        # Each image has its own seed of the generator, which is a 64-bit number.
        if not 0 <= self.seed < MOST_SEED:
            raise UsageError(f"a seed of noise is from 0 to below 2^40; got {str(self.seed)[:40]}")

    def __len__(self) -> int:
        return 1000

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Draw noise of the network's input shape."""
        generator = torch.Generator()
        images = [
            torch.randn(size, generator=generator.manual_seed(self.seed * 1_000_003 + i)) for i in range(start, stop)
        ]
        return torch.stack(images), None

    def largest_label(self, stop: int) -> int | None:
        """See `Dataset`."""
        return None


@dataclass
class FolderImages:
    """Image files, in one subfolder per class or all in one folder, which are read on request."""

    name: str
    paths: list[Path]
    labels: list[int] | None
    classes: int | None
    normalized: bool = False
    default_normalization: str = "imagenet"
    items: Items = "images"

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, start: int, stop: int, size: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
        """Read images, resized and centre-cropped to `size`; from size 64 the crop is 7/8 of the shorter side."""
        from torchvision.transforms import v2

        height, width = size[1:]
        shorter = round(max(height, width) / 0.875) if max(height, width) >= 64 else max(height, width)
        transform = v2.Compose([v2.PILToTensor(), v2.Resize(shorter, antialias=True), v2.CenterCrop((height, width))])
        pixels = []
        for path in self.paths[start:stop]:
            pixels.append(transform(read_image(path)))
        labels = None if self.labels is None else torch.tensor(self.labels[start:stop])
        return torch.stack(pixels), labels

    def largest_label(self, stop: int) -> int | None:
        """See `Dataset`."""
        return None if self.labels is None else max(self.labels[:stop])

    def scaled(self, place: int, shorter: int) -> Tensor:
        """Read one whole image (3, H, W), uint8, resized so that its shorter side has this many pixels."""
        from torchvision.transforms import v2

        transform = v2.Compose([v2.PILToTensor(), v2.Resize(shorter, antialias=True)])
        pixels: Tensor = transform(read_image(self.paths[place]))
        return pixels


def load_sample(asked: Asked) -> ArrayImages:
    """Load the bundled images: 100 test images of each class of CIFAR-10."""
    from PIL import Image

    folder = files("gradlab.assets")
    with (folder / "cifar10-sample.png").open("rb") as file, Image.open(file) as sprite:
        pixels = torch.from_numpy(np.array(sprite).reshape(-1, 32, 32, 3))
    labels = json.loads((folder / "cifar10-sample.json").read_text(encoding="utf-8"))["labels"]
    return ArrayImages(asked.name, _channels_first(pixels), torch.tensor(labels), 10)


def load_cifar(asked: Asked) -> ArrayImages:
    """Load CIFAR from `$GRADLAB_DATA/NAME.npz`, or torchvision's copy, or by a download through torchvision."""
    name, train = asked.name.removesuffix("-train"), asked.name.endswith("-train")
    folder = data_folder()
    array_file = folder / f"{name}.npz"
    if array_file.exists():
        found = _arrays(asked.name, array_file, "train" if train else "test")
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
    return ArrayImages(asked.name, pixels, torch.tensor(copy.targets), len(copy.classes), name)


def load_noise(asked: Asked) -> NoiseImages:
    """Draw noise from a seed."""
    return NoiseImages(asked.seed)


def load_arrays(asked: Asked) -> ArrayImages:
    """Load the test images of an `.npz` file, or its training images with `:train`."""
    return _arrays(asked.name, asked.path, "train" if asked.name.endswith(":train") else "test")


def load_folder(asked: Asked) -> FolderImages:
    """Find the image files of a folder, labelled by subfolder if every file is in one."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    name, folder = asked.name, asked.path
    if name == "imagefolder:" or not os.path.isdir(folder):
        raise UsageError(
            f"{name}: {folder} is not a folder of images" if name != "imagefolder:" else f"{name} names no folder"
        )
    # A folder of many files takes long to look through.
    paths = list(image_paths(folder, (*IMG_EXTENSIONS, *NOT_READ)))
    if not paths:
        raise GradlabError(f"{folder} holds no images ({', '.join(IMG_EXTENSIONS)})")
    _check_kinds(paths, IMG_EXTENSIONS)
    class_names = sorted({p.relative_to(folder).parts[0] for p in paths if p.parent != folder})
    if not class_names or any(p.parent == folder for p in paths):
        return FolderImages(name, paths, None, None)
    _check_classes(name, folder, set(class_names))
    numbers = {class_name: number for number, class_name in enumerate(class_names)}
    labels = [numbers[p.relative_to(folder).parts[0]] for p in paths]
    return FolderImages(name, paths, labels, len(class_names))


def _check_kinds(paths: list[Path], read: tuple[str, ...]) -> None:
    """Check that no image is of a kind that is not read: it would be left out in silence."""
    if found := next((path for path in paths if path.suffix.lower() in NOT_READ), None):
        raise GradlabError(
            f"{found} is an image of a kind that is not read ({', '.join(read)} are): convert or remove it"
        )


def _check_classes(name: str, folder: Path, class_names: set[str]) -> None:
    """Check that every subfolder is a class: those that are none, or have no images, would shift the class numbers."""
    subfolders = {path.name for path in folder.iterdir() if path.is_dir()}
    if empty := sorted(subfolders - class_names):
        raise GradlabError(
            f"{name}: the folder {empty[0]} holds no images: fill or remove it, since folders are classes"
        )
    if hidden := sorted(class_name for class_name in class_names if class_name.startswith(".")):
        raise GradlabError(f"{name}: the hidden folder {hidden[0]} holds images: remove it, since folders are classes")


def _arrays(name: str, path: Path, part: str) -> ArrayImages:
    x, y = read_images(path, part)
    pixels = torch.from_numpy(x)
    pixels = _channels_first(pixels) if x.shape[3] in (1, 3) else pixels.contiguous()
    return ArrayImages(name, pixels, None if y is None else torch.from_numpy(y), None)


def _channels_first(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).contiguous()
