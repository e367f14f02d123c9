"""Rows as lines of JSON, whole after a kill."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab.sinks.growing_file import GrowingFile
from gradlab.sinks.row import Row


class JSONL:
    """A file with one JSON object for each row; what JSON has no number for is a string: `nan`, `inf`, `-inf`.

    Args:
        path: The path of the file, which is overwritten.

    Raises:
        GradlabError: If the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._file = GrowingFile(path)

    def write(self, rows: Sequence[Row], /) -> None:
        """Append the rows of a step."""
        lines = [json.dumps({**row, "value": _number(row["value"])}, allow_nan=False) + "\n" for row in rows]
        self._file.append("".join(lines))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _number(value: float) -> Any:
    return value if math.isfinite(value) else str(value)
