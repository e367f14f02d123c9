"""Rows as metrics of a Weights & Biases run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradlab.errors import UsageError
from gradlab.sinks.row import PREFIX, Row, scalars_by_step

_STEP = f"{PREFIX}step"


class WandB:
    """Logs metrics `gradlab/STATISTIC/LAYER` against their own step, `gradlab/step`, beside the user's calls of `log`.

    Args:
        run: A run of wandb; None takes the active run.

    Raises:
        UsageError: If wandb is not installed, or there is no active run.
    """

    def __init__(self, run: Any = None) -> None:
        try:
            import wandb
        except ImportError:
            raise UsageError("wandb is not installed: pip install 'gradlab-torch[wandb]'") from None
        self.run: Any = run or wandb.run
        if self.run is None:
            raise UsageError("wandb has no active run: call wandb.init() first, or give the run")
        self.run.define_metric(_STEP, hidden=True)
        self.run.define_metric(f"{PREFIX}*", step_metric=_STEP)

    def write(self, rows: Sequence[Row], /) -> None:
        """Log the rows of a step."""
        for step, values in scalars_by_step(rows).items():
            self.run.log({**values, _STEP: step})
