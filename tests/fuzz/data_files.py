"""Data that lies, made by code: each a function from a folder to the name of the data and what is to be said of it."""

from __future__ import annotations

import io
import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

Maker = Callable[[Path], tuple[str, str]]
DATA: dict[str, Maker] = {}


def data(maker: Maker) -> Maker:
    DATA[maker.__name__] = maker
    return maker


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


def npz(folder: Path, packed: bool = False, **arrays: np.ndarray) -> str:
    (np.savez_compressed if packed else np.savez)(folder / "d.npz", **arrays)
    return str(folder / "d.npz")


def raw_npz(folder: Path, header: str, content: bytes = b"") -> str:
    """An archive whose array has the header that is given."""
    text = header.encode().ljust(118) + b"\n"
    with zipfile.ZipFile(folder / "d.npz", "w") as archive:
        archive.writestr("x_test.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
    return str(folder / "d.npz")


@data
def label_of_millions(folder: Path) -> tuple[str, str]:
    return npz(folder, x_test=images(), y_test=np.array([0, 1, 2, 30_000_000])), "class numbers from 0 to below 100,000"


@data
def labels_of_64_bits(folder: Path) -> tuple[str, str]:
    return npz(folder, x_test=images(), y_test=np.array([0, 1, 2, 2**64 - 1], dtype=np.uint64)), "class numbers"


@data
def packed_zeros(folder: Path) -> tuple[str, str]:
    return npz(folder, packed=True, x_test=np.zeros((40_000, 32, 32, 3), np.uint8)), "save it with np.savez"


@data
def packed_labels(folder: Path) -> tuple[str, str]:
    return npz(folder, packed=True, x_test=images(), y_test=np.zeros(20_000_000)), "unpacks from"


@data
def declared_and_not_there(folder: Path) -> tuple[str, str]:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (10000000, 32, 32, 3)}"
    return raw_npz(folder, header, bytes(100)), "not a whole .npz file of numeric arrays"


@data
def negative_shape(folder: Path) -> tuple[str, str]:
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 32, -1, 3)}"
    return raw_npz(folder, header, bytes(96)), "not a whole .npz file of numeric arrays"


@data
def header_of_code(folder: Path) -> tuple[str, str]:
    return raw_npz(folder, "__import__('os').getcwd()"), "not a whole .npz file of numeric arrays"


@data
def objects(folder: Path) -> tuple[str, str]:
    return npz(folder, x_test=np.array([{}, {}])), "not a whole .npz file of numeric arrays"


@data
def flipped_bit_in_an_array(folder: Path) -> tuple[str, str]:
    path = Path(npz(folder, x_test=images(64)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return str(path), "not a whole .npz file of numeric arrays"


@data
def beyond_one_at_the_end(folder: Path) -> tuple[str, str]:
    x = np.zeros((4000, 32, 32, 3), np.float32)
    x[-1, -1, -1, -1] = 2
    return npz(folder, x_test=x), "goes beyond 0 to 1"


@data
def many_names(folder: Path) -> tuple[str, str]:
    return npz(folder, **{f"array_{i:040}": np.zeros(1) for i in range(500)}), "has no array x_test"


def in_folder(folder: Path, name: str, content: bytes) -> str:
    (folder / "images").mkdir()
    (folder / "images" / name).write_bytes(content)
    return f"imagefolder:{folder / 'images'}"


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG of any size that it says."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@data
def png_of_169_million_pixels(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.png", png(13_000, 13_000)), "13,000 × 13,000 pixels; 40,000,000 at most"


@data
def png_beyond_pillows_bound(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.png", png(60_000, 60_000)), "is not an image that can be read"


@data
def png_of_one_row(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.png", png(4_000_000, 1)), "one side is over 100 times the other"


@data
def png_that_ends(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.png", png(6000, 6000, bytes(5_000_000))), "is not an image that can be read"


@data
def jpeg_that_ends(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.jpg", encoded(Image.fromarray(images()[0]), "JPEG")[:400]), "is not an image"


@data
def icon_that_says_it_is_a_png(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.png", encoded(Image.fromarray(images()[0]), "ICO")), "is not an image that can be read"


@data
def empty_image(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.png", b""), "is not an image that can be read"


@data
def image_of_32_bits(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a.tif", encoded(Image.new("F", (40, 40)), "TIFF")), "has values of 32 bits"


@data
def pipe_among_images(folder: Path) -> tuple[str, str]:
    name = in_folder(folder, "a.png", png(32, 32, bytes(97 * 32)))
    os.mkfifo(folder / "images" / "b.png")
    return name, "is not a regular file"


@data
def link_to_a_device(folder: Path) -> tuple[str, str]:
    name = in_folder(folder, "a.png", png(32, 32, bytes(97 * 32)))
    (folder / "images" / "b.png").symlink_to("/dev/zero")
    return name, "is not a regular file"


@data
def name_that_is_no_utf8(folder: Path) -> tuple[str, str]:
    return in_folder(folder, "a\udcff\x1b[31m\n.png", b"no image"), r"a\udcff\x1b[31m .png is not an image"


@data
def home_of_nobody(folder: Path) -> tuple[str, str]:
    return "~nosuchuser/data.npz", "~nosuchuser/data.npz does not exist"


@data
def images_of_nobody(folder: Path) -> tuple[str, str]:
    return "imagefolder:~nosuchuser", "is not a folder of images"


@data
def null_byte(folder: Path) -> tuple[str, str]:
    return f"{folder}/a\0b.npz", r"a\x00b.npz does not exist"


@data
def long_nonsense(folder: Path) -> tuple[str, str]:
    return "x" * 100_000, "unknown data"


@data
def path_too_long(folder: Path) -> tuple[str, str]:
    return "x" * 5000 + ".npz", "does not exist"


@data
def folder_too_long(folder: Path) -> tuple[str, str]:
    return "imagefolder:" + "x" * 5000, "is not a folder of images"
