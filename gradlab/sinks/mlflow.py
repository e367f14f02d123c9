"""Rows as metrics of an MLflow run."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from gradlab.errors import UsageError
from gradlab.sinks.row import Row, scalar_name

_BATCH = 1000
"""The number of metrics that MLflow accepts at a time."""

_FOREIGN = re.compile(r"[^\w\-. :/]+")
"""The characters that names of metrics may not contain."""


class MLflow:
    """Logs metrics `gradlab/STATISTIC/LAYER`; brackets in them become underscores.

    Args:
        run_id: The id of the run; None takes the active run.

    Raises:
        UsageError: If mlflow is not installed, or there is no active run.
    """

    def __init__(self, run_id: str | None = None) -> None:
        try:
            import mlflow
            from mlflow.entities import Metric
        except ImportError:
            raise UsageError("mlflow is not installed: pip install 'gradlab-torch[mlflow]'") from None
        run = mlflow.active_run()
        if run_id is None and run is None:
            raise UsageError("mlflow has no active run: call mlflow.start_run() first, or give the run_id")
        self.run_id = run_id or run.info.run_id
        self._client: Any = mlflow.MlflowClient()
        self._metric: Any = Metric

    def write(self, rows: Sequence[Row], /) -> None:
        """Log the rows of a step."""
        now = int(1000 * time.time())
        metrics = [self._metric(_name(row), row["value"], now, row["step"]) for row in rows]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH])


def _name(row: Row) -> str:
    return _FOREIGN.sub("_", scalar_name(row)).rstrip("_")
