"""Files that are whole or not there: written beside, then renamed."""

import contextlib
import errno
import glob
import hashlib
import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from gradlab.errors import GradlabError

_ABANDONED_SECONDS = 7 * 86400


def read_text(path: str | Path) -> str:
    """The text of a regular file, as UTF-8 whatever the locale is; a pipe or a device is not waited for.

    Raises:
        OSError: When there is none, or it cannot be read.
        UnicodeDecodeError: A ValueError, when it is no UTF-8.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return path.read_text(encoding="utf-8")


def prepare_folder(folder: str | Path) -> Path:
    """Make a folder and make sure that files can be written there, before the work begins.

    Raises:
        GradlabError: When they cannot.
    """
    folder = Path(folder)
    probe = folder / _part("writable")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except (OSError, ValueError) as error:
        # A name with a null byte is a ValueError.
        raise GradlabError(f"cannot write into {folder}: {getattr(error, 'strerror', None) or error}") from None
    return folder


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write one file whole or not at all; see `write_all`."""
    path = Path(path)
    write_all(path.parent, {path.name: content})


def write_all(folder: str | Path, contents: Mapping[str, bytes]) -> list[Path]:
    """Write several files, all beside first, then renamed in turn: a kill leaves each as it was or whole and new.

    Args:
        folder: Where; made when it is not there.
        contents: Bytes by file name; what vouches for the others comes last.

    Returns:
        The paths written.

    Raises:
        GradlabError: When a file cannot be written, or what is there is a link, a device or a folder; what was there
            before is untouched.
    """
    folder = prepare_folder(folder)
    for name in contents:
        _check_place(folder / name)
    _sweep(folder, contents)
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
    """Refuse to put a file in the place of what is no file: a device or a link would be gone.

    Raises:
        GradlabError: When there is such a thing.
    """
    if path.is_symlink():
        raise GradlabError(f"{path} is a link, and would be replaced by the file: give the place it leads to")
    if path.exists() and not path.is_file():
        raise GradlabError(f"{path} is no regular file, and is not replaced: give another name")


def _part(name: str) -> str:
    """What a file is called before it is whole, by host and process: two hosts may share a folder."""
    return f".{name}.{_host()}.{os.getpid()}.part"


def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode(errors="surrogateescape")).hexdigest()[:8]


def _sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed run left beside these files: of this host's dead processes, and of others' last week."""
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
        # A process of another user's is alive, too.
        return not isinstance(error, ProcessLookupError)
    return True
