"""Files that are either complete or absent: they are written under another name, then renamed."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from gradlab.errors import GradlabError

_ABANDONED_SECONDS = 7 * 86400


def read_text(path: str | Path) -> str:
    """The text of a regular file, as UTF-8 in any locale; pipes and devices are refused without waiting.

    Raises:
        OSError: If the file does not exist or cannot be read.
        UnicodeDecodeError: If the file is not UTF-8; this is a ValueError.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return path.read_text(encoding="utf-8")


def prepare_folder(folder: str | Path) -> Path:
    """Create a folder and check that files can be written to it, before the work begins.

    Raises:
        GradlabError: If they cannot.
    """
    folder = Path(folder)
    probe = folder / _part("writable")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except FileExistsError:
        raise GradlabError(f"cannot write into {folder}: it is no folder") from None
    except (OSError, ValueError) as error:
        # A name with a null byte is a ValueError.
        raise GradlabError(f"cannot write into {folder}: {getattr(error, 'strerror', None) or error}") from None
    return folder


@contextlib.contextmanager
def prepared_folder(folder: str | Path) -> Iterator[Path]:
    """A context of work whose files are to be written into a folder; see `prepare_folder`.

    If the work fails, the folders that were created for it are removed again, unless something is in them.
    """
    folder = Path(folder)
    created = [place for place in (folder, *folder.parents) if not os.path.lexists(place)]
    try:
        yield prepare_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError, ValueError):
            for place in created:
                place.rmdir()
        raise


def described_by(record: str | Path) -> list[Path]:
    """The files that exist beside a record and of which it has the digests; none without a readable record."""
    record = Path(record)
    try:
        names = {*json.loads(read_text(record))["sha256"]}
    except (OSError, ValueError, LookupError, TypeError):
        return []
    return [path for path in record.parent.iterdir() if path.name in names]


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write one file completely or not at all; see `write_all`."""
    path = Path(path)
    write_all(path.parent, {path.name: content})


def write_all(folder: str | Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write several files under other names, then rename them in turn, so that each is always either old or new.

    Args:
        folder: The folder, which is created if necessary.
        contents: The bytes by file name; a file that describes the others comes last.

    Returns:
        The paths written.

    Raises:
        GradlabError: If a file cannot be written, or would replace a link, a device or a folder; existing files are
            then unchanged.
    """
    with prepared_folder(folder) as place:
        for name in contents:
            _check_place(place / name)
        _sweep(place, contents)
        return _write_and_rename(place, contents)


def _write_and_rename(folder: Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write all files under other names, and rename them when all are written."""
    parts = {folder / name: folder / _part(name) for name in contents}
    try:
        for path, part in parts.items():
            with part.open("wb") as file:
                file.write(contents[path.name])
                file.flush()
                os.fsync(file.fileno())
        for path, part in parts.items():
            os.replace(part, path)
    except OSError as error:
        raise GradlabError(f"cannot write into {folder}: {error.strerror}") from None
    finally:
        for part in parts.values():
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
    return list(parts)


def _check_place(path: Path) -> None:
    """Refuse to replace anything except regular files, since a device or a link would be lost.

    Raises:
        GradlabError: If the path is not a regular file.
    """
    if path.is_symlink():
        raise GradlabError(f"{path} is a link, and would be replaced by the file: give the place it leads to")
    if path.exists() and not path.is_file():
        raise GradlabError(f"{path} is not a regular file, and is not replaced: give another name")


def _part(name: str) -> str:
    """The name of an incomplete file, with host and process, since two hosts may share a folder."""
    return f".{name}.{_host()}.{os.getpid()}.part"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode(errors="surrogateescape")).hexdigest()[:8]


def _sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove incomplete files of killed runs: of dead processes on this host, and of other hosts after a week."""
    for name in names:
        for part in folder.glob(f".{glob.escape(name)}.*.part"):
            *_, host, pid, _ = part.name.split(".")
            dead = pid.isdecimal() and host == _host() and not _alive(int(pid))
            with contextlib.suppress(OSError):
                if dead or time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                    part.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        # The process belongs to another user, so it is alive.
        return not isinstance(error, ProcessLookupError)
    return True
