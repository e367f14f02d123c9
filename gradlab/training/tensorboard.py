"""Metrics and dynamics of a training run for TensorBoard, written by torch's own writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from gradlab.sinks import TensorBoard as RowsBoard
from gradlab.sinks.tensorboard import summary_writer

_TAGS = {
    "learning_rate": "learning_rate",
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "train_error": "error/train",
    "test_error": "error/test",
}


class TensorBoard:
    """Writes an events file into a run's folder, for `tensorboard --logdir runs`.

    Args:
        folder: The folder of the run.
        step: The step at which a run resumes; events of later steps are hidden.

    Raises:
        UsageError: If tensorboard is not installed.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        self._writer = summary_writer()(str(folder), purge_step=step or None)
        self._rows = RowsBoard(self._writer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()

    def metrics(self, row: Mapping[str, float]) -> None:
        """Write a row of `metrics.csv`."""
        for name, tag in _TAGS.items():
            if name in row:
                self._writer.add_scalar(tag, row[name], int(row["step"]))

    def dynamics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of `dynamics.csv`, as `gl.sinks.TensorBoard` does."""
        self._rows.write(rows)


def require_tensorboard() -> None:
    """Check that tensorboard is installed.

    Raises:
        UsageError: If it is not.
    """
    summary_writer()
