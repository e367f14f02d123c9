"""A run's folder: who may write there, its checkpoint, and tables that grow while it runs."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import torch

from gradlab.errors import GradlabError, UsageError
from gradlab.results.files import prepare_folder, read_text, write_atomically

CHECKPOINT = "checkpoint.pt"
METRICS = "metrics.csv"
DYNAMICS = "dynamics.csv"
RECORD = "record.json"


class RunFolder:
    """The folder of one training, open to one process at a time.

    The lock is the operating system's: it goes with the process that holds it, however that ends.

    Args:
        path: Made when it is not there.

    Raises:
        UsageError: On entering, when another process trains into this folder.
        GradlabError: On entering, when nothing can be written there.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: io.TextIOWrapper | None = None

    def __enter__(self) -> Self:
        prepare_folder(self.path)
        name = self.path / ".lock"
        if name.is_symlink() or (name.exists() and not name.is_file()):
            raise UsageError(f"{name} is no regular file: remove it, or give another folder")
        try:
            lock = name.open("a", encoding="utf-8")
        except OSError as error:
            raise GradlabError(f"cannot write {name}: {error.strerror}") from None
        try:
            _lock(lock)
        except OSError:
            lock.close()
            raise UsageError(
                f"another run writes into {self.path}: wait for it, stop it, or give another folder"
            ) from None
        self._lock = lock
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def save_checkpoint(self, content: Mapping[str, Any]) -> None:
        """Write the checkpoint whole, in the place of the one before."""
        buffer = io.BytesIO()
        torch.save(dict(content), buffer)
        write_atomically(self.path / CHECKPOINT, buffer.getvalue())

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write how the run was made."""
        text = json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False, default=str)
        write_atomically(self.path / RECORD, (text + "\n").encode())

    def record(self) -> dict[str, Any]:
        """How the run was made, as far as that was written; empty where it is no record of a run."""
        try:
            record = json.loads(read_text(self.path / RECORD))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(record, dict) or not isinstance(record.get("resumed", []), list):
            return {}
        seconds = record.get("wall_seconds", 0.0)
        return record if isinstance(seconds, int | float) else {**record, "wall_seconds": 0.0}


def check_tables(folder: Path, lengths: Mapping[str, int]) -> None:
    """Make sure that a run's tables have what they had when its checkpoint was written.

    Args:
        folder: Of the run.
        lengths: Bytes of each table then, by file name; 0 begins anew.

    Raises:
        UsageError: When one is missing or shorter: its rows would be lost without a word.
    """
    for name, length in lengths.items():
        path = folder / name
        if path.exists() and not path.is_file():
            raise UsageError(f"{path} is no regular file, and the run's table is to be written there")
        there = path.stat().st_size if path.exists() else 0
        if length and there < length:
            raise UsageError(
                f"{path} {'is missing' if not path.exists() else f'has {there:,} bytes'}, and had {length:,} when the "
                "checkpoint was written: put it back, or go on in a new folder with --resume and --out, whose tables "
                "begin there"
            )


class GrowingTable:
    """A CSV file that grows by whole lines, and is cut back to where a checkpoint was.

    Args:
        path: The file.
        columns: Of the table; written when the file begins.
        length: Bytes to keep of the file that is there; 0 begins anew.

    Raises:
        UsageError: When the file that is there is none of this table's, or shorter.
        GradlabError: When it cannot be written.
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
        """Make sure that what is kept begins with the columns and ends with a line."""
        header = (",".join(self._columns) + "\n").encode()
        begins = self._file.read(len(header)) == header
        self._file.seek(length - 1)
        if not begins or self._file.read(1) != b"\n":
            self._file.close()
            raise UsageError(
                f"{self._path} is not the table that this run wrote: put that back, or go on in a new folder with "
                "--resume and --out"
            )

    @property
    def length(self) -> int:
        """Bytes so far, all on disk."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; a column that a row lacks stays empty.

        Raises:
            GradlabError: When they cannot be written.
        """
        self._write(rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="\n").writerows(rows)
        try:
            self._file.write(text.getvalue().encode())
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
