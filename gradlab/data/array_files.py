"""Images and labels in `.npz` files: headers are checked before values are read, and checksums while they are read."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from gradlab.errors import GradlabError, UsageError

MOST_CLASSES = 100_000
"""The exclusive upper bound of class numbers, since a network gets as many outputs as there are classes."""

MOST_PACKED = 50
"""The largest ratio of unpacked to packed size allowed beyond `SMALL` bytes; images compress to a fifth at best."""

SMALL = 50_000_000

_ROUNDING = 0.001
"""How far floats may lie outside of 0 to 1, by rounding or interpolation."""

_CHUNK = 2**20


@dataclass(frozen=True)
class _Declared:
    """An array in an archive that has not been read yet."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    def pieces(self) -> Iterator[np.ndarray]:
        """The values in file order, in one-dimensional pieces; the checksum is verified before the last one."""
        with self.archive.open(self.info) as file:
            _exactly(file, self.start)
            left = self.info.file_size - self.start
            while left:
                content = _exactly(file, min(left, _CHUNK // self.dtype.itemsize * self.dtype.itemsize))
                left -= len(content)
                if not left:
                    file.read(1)
                yield np.frombuffer(content, self.dtype)

    def read(self, dtype: np.dtype) -> np.ndarray:
        """The whole array, converted to another dtype."""
        flat, place = np.empty(math.prod(self.shape), dtype), 0
        for piece in self.pieces():
            flat[place : place + len(piece)] = piece
            place += len(piece)
        return flat.reshape(self.shape[::-1]).T if self.fortran else flat.reshape(self.shape)


def read_images(path: Path, part: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays `x_PART` and `y_PART` of a file.

    Args:
        path: The file.
        part: `train` or `test`.

    Returns:
        Images (N, H, W, 3) or (N, 3, H, W), uint8 or float32, and labels (N,) int64 or None.

    Raises:
        UsageError: If there is no such file.
        GradlabError: If the file is damaged or does not contain such arrays.
    """
    # The functions of `os.path` treat a string that is too long for a path as a path that does not exist.
    if not os.path.isfile(path):
        raise UsageError(f"{path} {'is not a regular file' if os.path.exists(path) else 'does not exist'}")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if f"x_{part}" not in members:
                names = ", ".join(list(members)[:20]) or "none"
                raise GradlabError(f"{path} has no array x_{part}; it has {names}")
            x_name, y_name = f"{path}: x_{part}", f"{path}: y_{part}"
            x = _declared(archive, members[f"x_{part}"], x_name)
            _check_images(x, x_name)
            labels = members.get(f"y_{part}")
            y = None if labels is None else _labels(_declared(archive, labels, y_name), x.shape[0], y_name)
            return _pixels(x, x_name), y
    except GradlabError:
        raise
    except Exception:  # zipfile, zlib and numpy each raise their own exceptions for unreadable files
        raise GradlabError(f"{path} is not a whole .npz file of numeric arrays") from None


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> _Declared:
    """An array's shape and dtype, checked against its size in the archive, which must be within bounds."""
    if info.file_size > max(SMALL, MOST_PACKED * info.compress_size):
        raise GradlabError(
            f"{name} unpacks from {info.compress_size:,} bytes to {info.file_size:,}: save it with np.savez, which "
            "packs nothing"
        )
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = header(file)
        start = file.tell()
    if dtype.hasobject or start + math.prod(shape) * dtype.itemsize != info.file_size or min(shape, default=0) < 0:
        raise ValueError(name)
    return _Declared(archive, info, tuple(shape), dtype, fortran, start)


def _check_images(x: _Declared, name: str) -> None:
    """Check the shape and dtype of images."""
    if len(x.shape) != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        raise GradlabError(f"{name} has shape {x.shape}; expected images (N, H, W, 3) or (N, 3, H, W)")
    if math.prod(x.shape) == 0:
        raise GradlabError(f"{name} holds no images")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise GradlabError(f"{name} is {x.dtype}; expected uint8 (0 to 255) or floats (0 to 1)")


def _pixels(x: _Declared, name: str) -> np.ndarray:
    if x.dtype == np.uint8:
        return x.read(x.dtype)
    # The values are checked piece by piece first, so that an invalid packed array is never in memory as a whole.
    for piece in x.pieces():
        if np.isnan(piece).any():
            raise GradlabError(f"{name} holds NaN, which is the colour of no pixel: leave out those images")
        if piece.min() < -_ROUNDING or piece.max() > 1 + _ROUNDING:
            raise GradlabError(
                f"{name} goes beyond 0 to 1, the range of floats; store 0 to 255 as uint8, and images as they are "
                "before their normalization, which is applied when they are read"
            )
    return x.read(np.dtype(np.float32))


def _labels(y: _Declared, count: int, name: str) -> np.ndarray:
    expected = f"expected ({count},) class numbers from 0 to below {MOST_CLASSES:,}"
    if y.shape not in ((count,), (count, 1)) or y.dtype.kind not in "iu":
        raise GradlabError(f"{name} is {y.dtype} of shape {y.shape}; {expected}")
    if any(int(piece.min()) < 0 or int(piece.max()) >= MOST_CLASSES for piece in y.pieces()):
        raise GradlabError(f"{name} has labels beyond those bounds; {expected}")
    return y.read(np.dtype(np.int64)).reshape(-1)


def _exactly(file: IO[bytes], count: int) -> bytes:
    """Exactly `count` bytes of an archive member, whose reader may return fewer at a time."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    if count:
        raise EOFError
    return b"".join(parts)
