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
from gradlab.results.files import prepare_folder, write_atomically

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
        lock = (self.path / ".lock").open("a")
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
        """How the run was made, as far as that was written."""
        try:
            record: dict[str, Any] = json.loads((self.path / RECORD).read_text())
        except (OSError, ValueError):
            return {}
        return record


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """A training's checkpoint, on the CPU.

    Raises:
        GradlabError: When it is damaged or none of a training.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist") from None
    except Exception as error:  # torch, pickle and zipfile raise kinds of their own for what they cannot read
        reason = str(error).split("\n")[0]
        raise GradlabError(f"{path} is no whole checkpoint: {reason}") from None
    if not isinstance(content, dict) or not {"model", "optimizer", "step", "config"} <= content.keys():
        raise UsageError(f"{path} holds weights alone and no training to go on with")
    return content


class GrowingTable:
    """A CSV file that grows by whole lines, and is cut back to where a checkpoint was.

    Args:
        path: The file.
        columns: Of the table; written when the file begins.
        length: Bytes to keep of the file that is there; 0 begins anew.
    """

    def __init__(self, path: Path, columns: Iterable[str], length: int = 0) -> None:
        self._columns = list(columns)
        self._path = path
        self._file = path.open("r+b" if path.exists() and length else "w+b")
        self._file.truncate(length)
        self._file.seek(0, os.SEEK_END)
        if not length:
            self._write([dict(zip(self._columns, self._columns, strict=True))])

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
