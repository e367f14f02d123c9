"""Image files as colours of 8 bits: their size is checked before they are decoded."""

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
"""Of one image."""

MOST_LONGER = 100
"""How many times its shorter side the longer side of an image may be: the shorter one is scaled to the network's."""

_FORMATS = ("JPEG", "MPO", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")


def image_paths(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Path]:
    """The image files below a folder, sorted.

    Raises:
        GradlabError: When one is a pipe, a device or a link that leads nowhere.
    """
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in suffixes):
        if path.is_file():
            yield path
        elif not path.is_dir():
            raise GradlabError(f"{path} is no regular file: take it out of the folder of images")


def read_image(path: Path) -> Image:
    """An image in RGB; 16-bit greys are scaled to 8 bits.

    Raises:
        GradlabError: When it is damaged, beyond the bounds, or of 32-bit values.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            # About sizes, which are bounded here, and oddities that do not matter.
            warnings.simplefilter("ignore")
            Image.init()
            with Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN]) as image:
                _check_size(path, *image.size)
                return _in_colour(path, image)
    except GradlabError:
        raise
    except Exception as error:  # Pillow's decoders raise kinds of their own for what they cannot read
        raise GradlabError(f"{path} is not an image that can be read: {error or type(error).__name__}") from None


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise GradlabError(f"{path} has {width:,} × {height:,} pixels; {MOST_PIXELS:,} at most are read")
    if max(width, height) > MOST_LONGER * min(width, height):
        raise GradlabError(f"{path} has {width:,} × {height:,} pixels: one side is over {MOST_LONGER} times the other")


def _in_colour(path: Path, image: Image) -> Image:
    from PIL import Image

    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        # Pillow's own conversion cuts them off at 255.
        grey = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise GradlabError(f"{path} has values of 32 bits, whose range nothing says: save it with 8 or 16 bits")
    return image.convert("RGB")
