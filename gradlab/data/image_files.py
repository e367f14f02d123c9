"""Image files read as 8-bit RGB; their size is checked before they are decoded."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 40_000_000
"""The largest number of pixels of an image."""

MOST_LONGER = 100
"""The largest allowed ratio of an image's longer side to its shorter side, which is scaled to the network's input."""

NOT_READ = (".apng", ".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".pbm", ".pnm", ".svg", ".tga")
"""Suffixes of images that a folder may have, and that are not read."""

_FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


def image_paths(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The image files below a folder, sorted.

    Raises:
        GradlabError: If one of them is a pipe, a device or a broken link.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        if path.is_file():
            yield path
        elif not path.is_dir():
            raise GradlabError(f"{path} is not a regular file: remove it from the folder of images")


def read_image(path: Path) -> Image:
    """Read an image as RGB; 16-bit greyscale is scaled to 8 bits.

    Raises:
        GradlabError: If the image is damaged, too large or too elongated, or has 32-bit values.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # Pillow warns of large sizes, which are bounded here, and of harmless irregularities.
            warnings.simplefilter("ignore")
            Image.init()
            with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
                _check_size(path, *image.size)
                return _in_colour(path, image)
    except GradlabError:
        raise
    except Exception as error:  # Pillow's decoders each raise their own exceptions for unreadable files
        raise GradlabError(f"{path} is not an image that can be read: {error or type(error).__name__}") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise GradlabError(f"{path} has {width:,} × {height:,} pixels; {MOST_PIXELS:,} at most are read")
    if max(width, height) > MOST_LONGER * min(width, height):
        raise GradlabError(f"{path} has {width:,} × {height:,} pixels: one side is over {MOST_LONGER} times the other")


def _in_colour(path: Path, image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion clips the values at 255.
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise GradlabError(f"{path} has values of 32 bits, whose range is unknown: save it with 8 or 16 bits")
    return image.convert("RGB")
