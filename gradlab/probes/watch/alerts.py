"""Alerts while a model trains: the findings of the latest records, each stated once."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import pandas as pd

from gradlab.errors import GradlabError, UsageError
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.names import TOTAL
from gradlab.results.dynamics.rules import WINDOW
from gradlab.results.dynamics.seen import Earlier
from gradlab.results.finding import Finding
from gradlab.sinks import Row

OnAlert = Literal["warn", "raise"] | Callable[[Finding], object]
"""What happens with a finding: a warning, an exception, or a call."""


class Alerts:
    """A sink that checks each record by the rules of `DynamicsResult.findings`.

    Args:
        on_alert: What happens with each finding.
        network: What to call the model.

    Raises:
        UsageError: For anything else.
    """

    def __init__(self, on_alert: OnAlert, network: str) -> None:
        if on_alert not in ("warn", "raise") and not callable(on_alert):
            raise UsageError(f"on_alert is warn, raise or a function of a finding, not {on_alert!r}")
        self.on_alert, self.network = on_alert, network
        self._records: deque[pd.DataFrame] = deque(maxlen=WINDOW + 1)
        self._earlier = Earlier()
        self._told: set[tuple[str, str | int]] = set()

    def write(self, rows: Sequence[Row], /) -> None:
        """State what the newest record shows and the records before it did not.

        Raises:
            GradlabError: If there is a finding, and `on_alert` is `raise`.
        """
        self._records.append(pd.DataFrame(rows))
        found = seen(pd.concat(self._records, ignore_index=True), self._earlier)
        rates = [row["value"] for row in rows if row["statistic"].startswith("learning_rate")]
        totals = {row["statistic"]: row["value"] for row in rows if row["layer"] == TOTAL}
        self._earlier = Earlier(max([self._earlier.highest_rate, *rates]), self._earlier.first or totals)
        for one in found:
            key = one.kind, one.step if one.kind == "spike" else one.layer
            if key not in self._told:
                self._told.add(key)
                self._tell(one.as_finding(self.network))

    def _tell(self, finding: Finding) -> None:
        if self.on_alert == "raise":
            raise GradlabError(finding)
        if self.on_alert == "warn":
            warnings.warn(finding, stacklevel=2)
        elif callable(self.on_alert):
            self.on_alert(finding)
