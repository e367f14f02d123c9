"""Rows as a parquet file, which is there once the watch has ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError, UsageError
from gradlab.sinks.row import COLUMNS, Row

_ROWS = 50_000
"""The number of rows that are kept until they are written as a group."""


class Parquet:
    """A parquet file; until `close` it is `NAME.parquet.part`, since such a file is read from its end.

    Args:
        path: The path of the file, which is overwritten.

    Raises:
        UsageError: If pyarrow is not installed.
        GradlabError: If the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UsageError("a .parquet file needs pyarrow: pip install 'gradlab-torch[parquet]'") from None
        self._arrow: Any = pyarrow
        self.path = Path(path)
        self._part = self.path.with_name(f"{self.path.name}.part")
        types = (
            pyarrow.int64(),
            pyarrow.string(),
            pyarrow.int64(),
            pyarrow.string(),
            pyarrow.string(),
            pyarrow.float64(),
        )
        self._schema = pyarrow.schema(list(zip(COLUMNS, types, strict=True)))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pyarrow.parquet.ParquetWriter(self._part, self._schema)
        except OSError as error:
            raise GradlabError(f"cannot write {self._part}: {error.strerror}") from None
        self._rows: list[Row] = []

    def write(self, rows: Sequence[Row], /) -> None:
        """Append the rows of a step."""
        self._rows += rows
        if len(self._rows) >= _ROWS:
            self._write_group()

    def close(self) -> None:
        """Write the remaining rows, and give the file its name."""
        self._write_group()
        self._writer.close()
        self._part.replace(self.path)

    def _write_group(self) -> None:
        rows, self._rows = self._rows, []
        if rows:
            columns = {name: [row[name] for row in rows] for name in COLUMNS}
            self._writer.write_table(self._arrow.table(columns, schema=self._schema))
