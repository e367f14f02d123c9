"""Checks of torch's zip archives before torch reads them: sizes against bounds, and members against checksums.

torch itself does not verify checksums, so that it would load a weight with a flipped bit.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO

from gradlab.checkpoints.declared import check_pickle
from gradlab.checkpoints.wording import some
from gradlab.errors import GradlabError

MOST_MEMBERS = 100_000
MOST_UNPACKED = 64 * 2**20
"""Number of bytes by which the unpacked members may exceed the file in total."""

CHUNK = 2**20


def check_archive(path: Path) -> None:
    """Check that a torch archive is complete and requests no more memory than it fills.

    Raises:
        GradlabError: If it fails a check. The message is to be prefixed with the file's name.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(archive, path.stat().st_size)
            pickled = [info for info in archive.infolist() if info.filename.count("/") == 1]
            pickled = [info for info in pickled if info.filename.endswith("/data.pkl")]
            if len(pickled) != 1:
                raise GradlabError("is no checkpoint: it is a zip archive that torch.save did not write")
            folder = pickled[0].filename.removesuffix("data.pkl")
            sizes = {
                info.filename.removeprefix(f"{folder}data/"): info.file_size
                for info in archive.infolist()
                if info.filename.startswith(f"{folder}data/")
            }
            check_sums(archive)
            with archive.open(pickled[0]) as file:
                check_pickle(file, sizes)
    except GradlabError:
        raise
    except Exception as error:  # zipfile, zlib, lzma and struct each raise errors of their own for unreadable data
        raise GradlabError(f"is damaged or cut short: {type(error).__name__} in its zip archive") from None


def check_sums(archive: zipfile.ZipFile) -> None:
    """Read every member in chunks and verify its CRC-32.

    Raises:
        GradlabError: If a checksum differs.
    """
    for info in archive.infolist():
        with archive.open(info) as file:
            if not _whole(file):
                raise GradlabError(
                    f"is damaged: {some([info.filename])} is not what its checksum says (files that were saved with "
                    "set_crc32_options(False) have none: save it again)"
                )


def _whole(file: IO[bytes]) -> bool:
    try:
        while file.read(CHUNK):
            pass
    except zipfile.BadZipFile:
        return False
    return True


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    names = [info.filename for info in members]
    if len(names) > MOST_MEMBERS:
        raise GradlabError(f"has {len(names):,} members; {MOST_MEMBERS:,} at most are read")
    if len(set(names)) < len(names):
        raise GradlabError("is damaged: members of its zip archive have the same name")
    # A TorchScript archive is a program whose pickle names its own classes; no user should be told to unpickle it.
    if any(name.endswith("/constants.pkl") for name in names):
        raise GradlabError("is a TorchScript archive: save the state_dict() of its module with torch.save")
    unpacked = sum(info.file_size for info in members)
    if unpacked > size + MOST_UNPACKED:
        raise GradlabError(
            f"is refused: its {size:,} bytes unpack to {unpacked:,}; torch.save does not compress, so save it again"
        )
