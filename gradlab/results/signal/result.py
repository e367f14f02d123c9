"""The result of measuring the signal block by block: columns and summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from gradlab.results.result import Result

COLUMNS = (
    "network",
    "block",
    "branch",
    "index",
    "stream_std",
    "stream_mean_square",
    "branch_std",
    "ratio",
    "cosine",
    "stream_grad_rms",
    "branch_grad_rms",
    "theory",
)


class SignalResult(Result):
    """Stream and branches of every block of one network or several, and their gradients.

    A row a block and branch, in order of execution; see `gl.BlockSignal` for what is measured.
    """

    name: ClassVar[str] = "signal"
    title: ClassVar[str | None] = "Signal propagation by block"

    @classmethod
    def from_rows(
        cls, network: str, rows: Sequence[dict[str, Any]], notes: Sequence[str], facts: dict[str, Any] | None = None
    ) -> Self:
        """One network's result.

        Args:
            network: Name of the network.
            rows: A dict a block and branch, in order of execution.
            notes: Sentences on this measurement.
            facts: What the record says of the network.
        """
        frame = pd.DataFrame(rows).assign(network=network, theory=np.nan)
        frame = frame[[*COLUMNS, *(column for column in frame if column not in COLUMNS)]]
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))
