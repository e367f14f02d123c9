"""The result of measuring attention: columns and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import pandas as pd

from gradlab.results.attention.findings import findings
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Row(TypedDict):
    """The columns of a saved frame; see `AttentionResult`."""

    network: str
    layer: str
    index: int
    head: int
    entropy: float | None
    relative_entropy: float | None
    largest_logit: float | None
    rows: int
    call: int


class AttentionResult(Result):
    """Entropy and largest logit of attention of one or several networks, with one row per layer and head.

    Columns: network, layer (the module that attends), index (the place in order of execution), head, entropy (nats,
    mean over rows and examples), relative_entropy (relative to equal weights), largest_logit, rows (the number of rows
    taken), call.
    """

    name: ClassVar[str] = "attention"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Attention by layer and head"
    captions: ClassVar[Mapping[str, str]] = {
        "attention": "Attention by layer: entropy over that of equal weights, and largest logit; a dot a head, the "
        "line their mean, and of logits the largest.",
    }
    formats: ClassVar[Formats] = dict.fromkeys(
        ("entropy, first", "entropy, last", "lowest relative", "largest logit"), "{:.3g}".format
    )
    priority: ClassVar[Sequence[str]] = (
        "network", "lowest relative", "largest logit", "entropy, last", "weights", "heads", "layers", "entropy, first",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {
        "lowest relative": "entropy of a head over that of equal weights, where it is lowest",
        "entropy, last": "nats, mean over the heads of the last layer",
    }
    covering: ClassVar[str] = "modules with attention hold"

    @classmethod
    def from_rows(
        cls, network: str, rows: Sequence[dict[str, Any]], notes: Sequence[str], facts: dict[str, Any] | None = None
    ) -> Self:
        """Return one network's result.

        Args:
            network: The name of the network.
            rows: One dict per layer and head, in order of execution.
            notes: The notes on this measurement.
            facts: The facts on the network for the record.
        """
        frame = pd.DataFrame(rows)
        frame.insert(0, "network", network)
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))

    def summary(self) -> pd.DataFrame:
        """Return one row per network, with the attention of its heads from the first layer to the last."""
        known = {facts["network"]: facts for facts in self.record.get("networks", [])}
        rows = []
        for network, frame in self.frame.groupby("network", sort=False):
            facts, entropy = known.get(network, {}), frame.groupby("index")["entropy"].mean()
            rows.append(
                {
                    "network": facts.get("name", network),
                    "weights": facts.get("weights_label", "–"),
                    "layers": frame["index"].nunique(),
                    "heads": len(frame),
                    "entropy, first": entropy.iloc[0],
                    "entropy, last": entropy.iloc[-1],
                    "lowest relative": frame["relative_entropy"].min(),
                    "largest logit": frame["largest_logit"].max(),
                }
            )
        return pd.DataFrame(rows)

    def findings(self) -> list[str]:
        """Return the findings: heads that look at single tokens or average, and the largest logits."""
        return [*findings(self.frame)]

    def plot(self, ax: Axes | None = None, value: str = "relative_entropy") -> Axes:
        """Draw one statistic against layers.

        Args:
            ax: The axes; None makes the figure of both statistics.
            value: `relative_entropy`, `entropy` or `largest_logit`.

        Returns:
            The axes drawn on, or the first of them.
        """
        from gradlab.results.attention.figure import plot_attention

        frame = self.to_frame()
        if ax is not None:
            return plot_attention(frame, ax, value)
        return self._first_axes()

    def _draw(self, figure: Figure) -> Figure:
        """Return relative entropy and largest logit against layers."""
        from gradlab.results.attention.figure import attention_figure

        return attention_figure(self.to_frame(), figure)
