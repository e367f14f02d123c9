"""Rows as metrics of a Trackio run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradlab.errors import UsageError
from gradlab.sinks.row import Row, scalars_by_step


class Trackio:
    """Logs metrics `gradlab/STATISTIC/LAYER`.

    Args:
        run: What `trackio.init` returned.

    Raises:
        UsageError: If trackio is not installed, or `run` is not one of its runs.
    """

    def __init__(self, run: Any) -> None:
        try:
            import trackio
        except ImportError:
            raise UsageError("trackio is not installed: pip install 'gradlab-torch[trackio]'") from None
        if not isinstance(run, trackio.Run):
            raise UsageError(f"a Trackio sink takes what trackio.init() returns, not {type(run).__name__}")
        self.run = run

    def write(self, rows: Sequence[Row], /) -> None:
        """Log the rows of a step."""
        for step, values in scalars_by_step(rows).items():
            self.run.log(values, step=step)
