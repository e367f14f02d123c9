"""Images and labels in `.npz` files: what a file declares is checked before a value is read, and its sums with them."""

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
"""Labels are class numbers below this: a network gets as many outputs as there are classes."""

MOST_PACKED = 50
"""How many times its size a packed array may unpack to, beyond `SMALL` bytes; images pack to a fifth at best."""

SMALL = 50_000_000

_CHUNK = 2**20


@dataclass(frozen=True)
class _Declared:
    """An array in an archive, not read yet."""

    archive: zipfile.ZipFile
    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    def pieces(self) -> Iterator[np.ndarray]:
        """Its values in the order of the file, one-dimensional; the last piece comes after the sum was checked."""
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
        """The whole array, as another type."""
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
        UsageError: When there is no such file.
        GradlabError: When it is damaged or holds something else.
    """
    # The functions of `os.path` take what is too long for a path for one that is not there.
    if not os.path.isfile(path):
        raise UsageError(f"{path} {'is no regular file' if os.path.exists(path) else 'does not exist'}")
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
    except Exception:  # zipfile, zlib and numpy raise kinds of their own for what they cannot read
        raise GradlabError(f"{path} is not a whole .npz file of numeric arrays") from None


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> _Declared:
    """An array's shape and type, held against its size in the archive and that against the bounds."""
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
    """Hold shape and type of images against what they can be."""
    if len(x.shape) != 4 or not {x.shape[1], x.shape[3]} & {1, 3}:
        raise GradlabError(f"{name} has shape {x.shape}; expected images (N, H, W, 3) or (N, 3, H, W)")
    if math.prod(x.shape) == 0:
        raise GradlabError(f"{name} holds no images")
    if x.dtype != np.uint8 and x.dtype.kind != "f":
        raise GradlabError(f"{name} is {x.dtype}; expected uint8 (0 to 255) or floats (0 to 1)")


def _pixels(x: _Declared, name: str) -> np.ndarray:
    if x.dtype == np.uint8:
        return x.read(x.dtype)
    # Looked through first: packed values that are refused are never all in memory.
    if any(np.nanmax(np.abs(piece), initial=0) > 1.001 for piece in x.pieces()):
        raise GradlabError(f"{name} goes beyond 0 to 1, the range of floats; store 0 to 255 as uint8")
    return x.read(np.dtype(np.float32))


def _labels(y: _Declared, count: int, name: str) -> np.ndarray:
    expected = f"expected ({count},) class numbers from 0 to below {MOST_CLASSES:,}"
    if y.shape not in ((count,), (count, 1)) or y.dtype.kind not in "iu":
        raise GradlabError(f"{name} is {y.dtype} of shape {y.shape}; {expected}")
    if any(int(piece.min()) < 0 or int(piece.max()) >= MOST_CLASSES for piece in y.pieces()):
        raise GradlabError(f"{name} has labels beyond those bounds; {expected}")
    return y.read(np.dtype(np.int64)).reshape(-1)


def _exactly(file: IO[bytes], count: int) -> bytes:
    """So many bytes of a member; its reader gives fewer where its own pieces end."""
    parts = []
    while count and (part := file.read(count)):
        parts.append(part)
        count -= len(part)
    if count:
        raise EOFError
    return b"".join(parts)
