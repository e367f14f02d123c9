"""Files that are whole or not there: written beside, then renamed."""

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gradlab.errors import GradlabError


def prepare_folder(folder: str | Path) -> Path:
    """Make a folder and make sure that files can be written there, before the work begins.

    Raises:
        GradlabError: When they cannot.
    """
    folder = Path(folder)
    probe = folder / f".writable.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise GradlabError(f"cannot write into {folder}: {error.strerror}") from None
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
        GradlabError: When a file cannot be written; what was there before is untouched.
    """
    folder = prepare_folder(folder)
    _sweep(folder, contents)
    parts = {folder / name: folder / f".{name}.{os.getpid()}.part" for name in contents}
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
            part.unlink(missing_ok=True)
    return list(parts)


def _sweep(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed run left beside these files."""
    for name in names:
        for part in folder.glob(f".{glob.escape(name)}.*.part"):
            pid = part.name.split(".")[-2]
            if not pid.isdecimal() or not _alive(int(pid)):
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
