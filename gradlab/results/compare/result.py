"""The result of a comparison of networks: columns, table and figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import numpy as np
import pandas as pd

from gradlab.results.compare.findings import RANK, findings
from gradlab.results.intervals import WithError
from gradlab.results.result import Result
from gradlab.results.schema import CompareFacts
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(TypedDict):
    """The columns of a saved frame; see `CompareResult`."""

    network: str
    statistic: str
    place: float | None
    value: float
    sem: float | None
    seeds: int


class CompareResult(Result):
    """The networks that answer a question, measured at initialization and perhaps trained.

    Columns: network; statistic; place (of a layer or block, its relative depth from 0 to 1; of an error, the epoch;
    missing for a number of the whole network); value and sem (the mean over seeds and its standard error); seeds. The
    statistics are `stream_std` (after each block), `gradient_norm` (with respect to the response of each convolution,
    over the batch), `gradient_log_ratio` (the natural logarithm of that of the first convolution over the last's),
    `relative_effective_rank` (of the input gradients), `train_error` and `test_error` (fractions).
    """

    name: ClassVar[str] = "compare"
    row: ClassVar[type] = Row
    known_facts: ClassVar[type] = CompareFacts
    title: ClassVar[str | None] = "Networks compared"
    captions: ClassVar[Mapping[str, str]] = {
        "compare": "At initialization, over seeds: the standard deviation of the stream after each block, the norm of "
        "the gradient with respect to the response of each convolution, and the effective rank of the input gradients "
        "relative to noise, with 95 % intervals (Student's t). Where networks were trained: their training (dashed) "
        "and test error.",
    }
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("layers", "parameters", "multiply-adds"), "{:,d}".format),
        "gradient first / last": "{:.3g}".format,
        "rel. eff. rank": str,
        **dict.fromkeys(("train error (%)", "test error (%)"), "{:.2f}".format),
    }

    def summary(self) -> pd.DataFrame:
        """One row per network: its size, what it shows at initialization, and its errors if it was trained."""
        rows = []
        for network in self.networks:
            facts, own = self.facts(network), self.frame[self.frame["network"] == network]
            numbers = own.set_index("statistic")
            rows.append(
                {
                    "network": network,
                    "layers": facts["layers"],
                    **self._last_errors(own),
                    "parameters": facts["parameters"],
                    "multiply-adds": facts["multiply_adds"],
                    "gradient first / last": float(np.exp(numbers["value"].get("gradient_log_ratio", np.nan))),
                    "rel. eff. rank": WithError(numbers["value"].get(RANK, np.nan), numbers["sem"].get(RANK, np.nan)),
                }
            )
        summary = pd.DataFrame(rows)
        summary["rel. eff. rank"] = pd.Series([row["rel. eff. rank"] for row in rows], dtype=object)
        return summary

    @staticmethod
    def _last_errors(own: pd.DataFrame) -> dict[str, float]:
        """The errors of the last epoch of a network in percent; nothing if it was not trained."""
        return {
            f"{kind} error (%)": 100 * float(rows.sort_values("place")["value"].iloc[-1])
            for kind in ("train", "test")
            if len(rows := own[own["statistic"] == f"{kind}_error"])
        }

    def findings(self) -> list[str]:
        """Two sentences on the networks at initialization, and two on their errors if they were trained."""
        facts: Sequence[Mapping[str, Any]] = [self.facts(network) for network in self.networks]
        return [*findings(self.frame, facts, self.record["options"]["question"])]

    def _draw(self, figure: Figure) -> Figure:
        """Draw the stream, the gradient, the effective rank, and the errors if there are any, side by side."""
        from gradlab.results.compare.figure import compare_figure

        return compare_figure(self.to_frame(), figure)
