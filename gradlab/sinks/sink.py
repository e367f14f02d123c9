"""The interface of a sink, which receives the rows of each record: one method."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from gradlab.errors import UsageError
from gradlab.sinks.csv import CSV
from gradlab.sinks.jsonl import JSONL
from gradlab.sinks.parquet import Parquet
from gradlab.sinks.row import Row


@runtime_checkable
class Sink(Protocol):
    """Receives rows. A sink that the watch made, and that has a method `close`, is closed with the watch."""

    def write(self, rows: Sequence[Row], /) -> object:
        """Process the rows of one step."""


class FunctionSink:
    """A sink that calls a function.

    Args:
        function: The function, which is called with the rows of each step.
    """

    def __init__(self, function: Callable[[Sequence[Row]], object]) -> None:
        self.function = function

    def write(self, rows: Sequence[Row], /) -> None:
        """Call the function."""
        self.function(rows)


AnySink = Sink | Callable[[Sequence[Row]], object] | str | Path
"""A sink, a function that takes rows, or the path of a file: `.csv`, `.jsonl` or `.parquet`."""


def sink_of(given: AnySink) -> Sink:
    """Return the sink that an object stands for.

    Raises:
        UsageError: For anything else.
    """
    if isinstance(given, str | Path):
        return _file_sink(Path(given))
    if isinstance(given, Sink):
        return given
    if callable(given):
        return FunctionSink(given)
    raise UsageError(
        f"a sink is an object with write(rows), a function of rows, or the path of a file, not {type(given).__name__}"
    )


def _file_sink(path: Path) -> Sink:
    kinds: dict[str, Callable[[Path], Sink]] = {".csv": CSV, ".jsonl": JSONL, ".parquet": Parquet}
    if path.suffix not in kinds:
        raise UsageError(f"{path}: a file of dynamics ends in {', '.join(kinds)}")
    return kinds[path.suffix](path)
