"""Rows as lines of a CSV file, whole after a kill."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from gradlab.sinks.growing_file import GrowingFile
from gradlab.sinks.row import COLUMNS, Row


class CSV:
    """A CSV file that grows by the rows of a step at a time, each in one write.

    Args:
        path: The path of the file, which is overwritten.

    Raises:
        GradlabError: If the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = GrowingFile(path)
        self._file.append(csv_lines(COLUMNS, [dict(zip(COLUMNS, COLUMNS, strict=True))]))

    def write(self, rows: Sequence[Row], /) -> None:
        """Append the rows of a step."""
        self._file.append(csv_lines(COLUMNS, [{name: row[name] for name in COLUMNS} for row in rows]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def csv_lines(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return rows as lines of CSV, with empty cells for what a row lacks.

    Args:
        columns: The columns of the table.
        rows: The rows, which have no other columns.
    """
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue()
