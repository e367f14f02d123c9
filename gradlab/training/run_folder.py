"""The folder of a run: its lock, its checkpoint and record, and tables that grow during the run."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gradlab.errors import GradlabError, UsageError
from gradlab.results.files import prepare_folder, read_text, write_atomically
from gradlab.sinks.csv import csv_lines

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.csv"
DYNAMICS = "dynamics.csv"
RECORD = "record.json"


class RunFolder:
    """The folder of one training run, which one process at a time may write to.

    The lock belongs to the operating system, which releases it however the process ends. Between hosts it holds only as
    far as the file system has locks for all of them, which some network file systems have not.

    Args:
        path: The path of the folder, which is created if necessary.
        writes: Whether this process is the one that writes. Otherwise nothing is written, and nothing is read.

    Raises:
        UsageError: On entering, if another process writes to the folder.
        GradlabError: On entering, if the folder is not writable.
    """

    def __init__(self, path: str | Path, *, writes: bool = True) -> None:
        self.path, self.writes = Path(path), writes
        self._lock: io.TextIOWrapper | None = None

    def __enter__(self) -> Self:
        if not self.writes:
            return self
        prepare_folder(self.path)
        name = self.path / ".lock"
        if name.is_symlink() or (name.exists() and not name.is_file()):
            raise UsageError(f"{name} is not a regular file: remove it, or give another folder")
        try:
            lock = name.open("a+", encoding="utf-8", errors="replace")
        except OSError as error:
            raise GradlabError(f"cannot write {name}: {error.strerror}") from None
        try:
            _lock(lock)
        except OSError:
            lock.seek(0)
            holder = lock.readline().strip()
            lock.close()
            raise UsageError(
                f"another run writes into {self.path}{holder and f' ({holder})'}: wait for it, stop it, or give "
                "another folder"
            ) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        self._lock = lock
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def save_checkpoint(self, content: Mapping[str, Any]) -> None:
        """Write the checkpoint, replacing the previous one atomically."""
        if not self.writes:
            return
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write the record of the run."""
        if not self.writes:
            return
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        write_atomically(self.path / RECORD, (text + "\n").encode())

    def record(self) -> dict[str, Any]:
        """Read the record of the run; it is empty if there is no valid record."""
        if not self.writes:
            return {}
        try:
            record = json.loads(read_text(self.path / RECORD))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(record, dict) or not isinstance(record.get("resumed", []), list):
            return {}
        seconds = record.get("wall_seconds", 0.0)
        return record if isinstance(seconds, int | float) else {**record, "wall_seconds": 0.0}


def on_host(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state with its tensors on the CPU, so that a checkpoint opens on any machine."""
    copied: dict[str, Any] = tree_map_only(Tensor, Tensor.cpu, state)
    if hasattr(state, "_metadata"):  # the versions of what modules keep, which belong to the state of a module
        copied._metadata = state._metadata  # type: ignore[attr-defined]
    return copied


def check_tables(folder: Path, lengths: Mapping[str, int]) -> None:
    """Check that a run's tables are at least as long as when its checkpoint was written.

    Args:
        folder: The folder of the run.
        lengths: The number of bytes of each table at the checkpoint, by file name; 0 means a new table.

    Raises:
        UsageError: If a table is missing or shorter, so that rows would be lost.
    """
    for name, length in lengths.items():
        path = folder / name
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is not a regular file, and the run's table is to be written there")
        there = path.stat().st_size if path.exists() else 0
        if length and there < length:
            raise UsageError(
                f"{path} {'is missing' if not path.exists() else f'has {there:,} bytes'}, and had {length:,} when the "
                "checkpoint was written: restore it, or resume into a new folder with --resume and --out, whose tables "
                "start there"
            )


class GrowingTable:
    """A CSV file that grows by whole lines and can be truncated to its length at a checkpoint.

    Args:
        path: The path of the file.
        columns: The columns of the table, written as the header of a new file.
        length: The number of bytes of the existing file to keep; 0 starts a new file.

    Raises:
        UsageError: If the existing file does not belong to this table, or is shorter.
        GradlabError: If the file cannot be written.
    """

    def __init__(self, path: Path, columns: Iterable[str], length: int = 0) -> None:
        self._columns = list(columns)
        self._path = path
        check_tables(path.parent, {path.name: length})
        try:
            self._file = path.open("r+b" if length else "w+b")
        except OSError as error:
            raise GradlabError(f"cannot write {path}: {error.strerror}") from None
        if length:
            self._check_content(length)
        self._file.truncate(length)
        self._file.seek(0, os.SEEK_END)
        if not length:
            self._write([dict(zip(self._columns, self._columns, strict=True))])

    def _check_content(self, length: int) -> None:
        """Check that the kept part begins with the header and ends with a complete line."""
        header = (",".join(self._columns) + "\n").encode()
        begins = self._file.read(len(header)) == header
        self._file.seek(length - 1)
        if not begins or self._file.read(1) != b"\n":
            self._file.close()
            raise UsageError(
                f"{self._path} is not the table that this run wrote: restore that table, or resume into a new folder "
                "with --resume and --out"
            )

    @property
    def length(self) -> int:
        """The number of bytes so far, after they have been synchronized to disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows; columns that a row lacks stay empty.

        Raises:
            GradlabError: If they cannot be written.
        """
        self._write(rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        try:
            self._file.write(csv_lines(self._columns, rows).encode())
            self._file.flush()
        except OSError as error:
            raise GradlabError(f"cannot write {self._path}: {error.strerror}") from None


def _lock(file: io.TextIOWrapper) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
