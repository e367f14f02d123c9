"""Rows as lines of a CSV file, whole after a kill."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from gradlab.sinks.growing_file import GrowingFile
from gradlab.sinks.sink import COLUMNS, Row


class CSV:
    """A CSV file that grows by the rows of a step at a time, each in one write.

    Args:
        path: Of the file, which begins anew.

    Raises:
        GradlabError: When it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = GrowingFile(path)
        self._append([dict(zip(COLUMNS, COLUMNS, strict=True))])

    def write(self, rows: Sequence[Row], /) -> None:
        """Append the rows of a step."""
        self._append(rows)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, rows: Sequence[Row]) -> None:
        text = io.StringIO()
        csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore").writerows(rows)
        self._file.append(text.getvalue())
