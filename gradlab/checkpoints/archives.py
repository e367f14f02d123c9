"""The zip archives that torch writes: sizes held against bounds and every member against its sum, before torch reads.

torch itself does not check the sums: a flipped bit in a weight is a weight to it.
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
"""Bytes that members may have beyond those of the file, unpacked, in all."""

CHUNK = 2**20


def check_archive(path: Path) -> None:
    """Check that an archive of torch's is whole and asks for no more memory than it fills.

    Raises:
        GradlabError: When it does not; the sentence goes on behind the name of the file.
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
    except Exception as error:  # zipfile, zlib, lzma and struct raise kinds of their own for what they cannot read
        raise GradlabError(f"is damaged or cut short: {type(error).__name__} in its zip archive") from None


def check_sums(archive: zipfile.ZipFile) -> None:
    """Read every member in pieces and hold it against its CRC-32.

    Raises:
        GradlabError: When one differs.
    """
    for info in archive.infolist():
        with archive.open(info) as file:
            if not _whole(file):
                raise GradlabError(
                    f"is damaged: {some([info.filename])} is not what its checksum says (files that were saved with "
                    "set_crc32_options(False) have none: save it anew)"
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
    # A program, whose pickle names its own classes: no one should be told to unpickle it.
    if any(name.endswith("/constants.pkl") for name in names):
        raise GradlabError("is a TorchScript archive: save the state_dict() of its module with torch.save")
    unpacked = sum(info.file_size for info in members)
    if unpacked > size + MOST_UNPACKED:
        raise GradlabError(
            f"is refused: its {size:,} bytes unpack to {unpacked:,}; torch.save packs nothing, so save it anew"
        )
