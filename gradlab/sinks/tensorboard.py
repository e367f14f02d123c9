"""Rows as scalars of TensorBoard, through torch's own writer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab.errors import UsageError
from gradlab.sinks.row import Row, scalar_name


class TensorBoard:
    """Writes scalars `gradlab/STATISTIC/LAYER`.

    Args:
        writer: A `SummaryWriter`, or the folder for a new one.

    Raises:
        UsageError: If tensorboard is not installed.
    """

    def __init__(self, writer: Any) -> None:
        self._own = isinstance(writer, str | Path)
        self.writer = summary_writer()(str(writer)) if self._own else writer

    def write(self, rows: Sequence[Row], /) -> None:
        """Write the rows of a step."""
        for row in rows:
            self.writer.add_scalar(scalar_name(row), row["value"], row["step"])
        self.writer.flush()

    def close(self) -> None:
        """Close the writer, if this sink made it."""
        if self._own:
            self.writer.close()


def summary_writer() -> Any:
    """Return the class of torch's writers.

    Raises:
        UsageError: If tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError("tensorboard is not installed: pip install 'gradlab-torch[tensorboard]'") from None
    return SummaryWriter
