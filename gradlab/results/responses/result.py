"""The result of measuring layer responses: columns, summary and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Self, TypedDict

import pandas as pd

from gradlab.results.coverage import coverage_text
from gradlab.results.gradients.summary import coverage_share
from gradlab.results.responses.findings import findings, one_network
from gradlab.results.responses.gaps import gaps
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ["network", "layer", "index", "kind", "std", "mean", "count", "rank", "predicted_std"]


def was_measured(frame: pd.DataFrame) -> bool:
    """Whether any value was observed, finite or not; otherwise the frame contains a prediction."""
    return bool((frame["count"] + frame["non_finite"]).any())


class Row(TypedDict):
    """The columns of a saved frame; see `ResponsesResult`."""

    network: str
    layer: str
    index: int
    kind: str
    std: float | None
    mean: float | None
    count: int
    rank: NotRequired[int | None]
    predicted_std: float | None
    call: NotRequired[int]
    stride: int | None
    non_finite: int
    shortcut: NotRequired[bool]


class ResponsesResult(Result):
    """Layer-response std of one or several networks, with one row per layer in order of execution.

    Columns: network, layer, index, kind, std, mean, count, rank (1 for the largest std), predicted_std (from the
    parameters of batch normalization alone), call (the number of the layer's call), stride, non_finite, shortcut
    (whether it is the projection of a shortcut, which ranks, the summary and findings leave out).
    """

    name: ClassVar[str] = "responses"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Standard deviation of layer responses"
    captions: ClassVar[Mapping[str, str]] = {
        "responses": "Standard deviation of each layer's response, its output after normalization and before any other "
        "nonlinearity or addition: above in order of execution, below ranked (He et al. 2015, §4.2, Fig. 7).",
    }
    formats: ClassVar[Formats] = {
        "layers": "{:d}".format,
        "images": "{:,.0f}".format,
        "coverage": coverage_text,
        "accuracy (%)": "{:.2f}".format,
        **dict.fromkeys(("mean std", "median std", "largest std"), "{:.4f}".format),
        **dict.fromkeys(("std", "mean", "predicted_std"), "{:.4f}".format),
        "count": "{:,d}".format,
    }

    priority: ClassVar[Sequence[str]] = (
        "network", "median std", "weights", "accuracy (%)", "largest std", "at", "layers", "images", "mean std", "BN",
    )  # fmt: skip

    @classmethod
    def from_rows(
        cls, network: str, rows: list[dict[str, Any]], notes: list[str], facts: dict[str, Any] | None = None
    ) -> Self:
        """Make the result of one network, with ranks.

        Args:
            network: The name of the network.
            rows: One dict per layer, in order of execution.
            notes: The notes on this measurement.
            facts: The facts on the network for the record.
        """
        frame = pd.DataFrame(rows)
        frame.insert(0, "network", network)
        frame["shortcut"] = frame["shortcut"].eq(True) if "shortcut" in frame else False
        key = frame["std"] if was_measured(frame) else frame["predicted_std"]
        key = key.where(~frame["shortcut"])
        frame.insert(7, "rank", key.rank(ascending=False, method="first").astype("Int64"))
        first = [column for column in COLUMNS if column in frame]
        frame = frame[first + [column for column in frame if column not in first]]
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, notes)

    @property
    def measured(self) -> bool:
        """Whether any std was measured; otherwise there is only the predicted std."""
        return was_measured(self.frame)

    def summary(self) -> pd.DataFrame:
        """One row per network: weights, layers, mean, median and largest std with its layer, images, accuracy."""
        rows = []
        column, counted = "std" if self.measured else "predicted_std", self._counted()
        for network in self.networks:
            frame = counted[counted["network"] == network]
            facts = self.facts(network)
            largest = frame[column].idxmax() if frame[column].notna().any() else None
            accuracy = facts.get("accuracy")
            rows.append(
                {
                    "network": facts.get("name", network),
                    "weights": facts.get("weights_label", "–"),
                    "BN": facts.get("bn", "–"),
                    "layers": len(frame),
                    "mean std": frame[column].mean(),
                    "median std": frame[column].median(),
                    "largest std": frame[column].max(),
                    "at": "–" if largest is None else frame.loc[largest, "layer"],
                    "images": facts.get("images"),
                    "accuracy (%)": None if accuracy is None else 100 * accuracy,
                    "coverage": coverage_share(facts),
                }
            )
        summary = pd.DataFrame(rows)
        summary[["images", "accuracy (%)"]] = summary[["images", "accuracy (%)"]].astype(float)
        return summary if summary["coverage"].notna().any() else summary.drop(columns="coverage")

    def _counted(self) -> pd.DataFrame:
        """The rows without projections of shortcuts."""
        return self.frame[~self.frame["shortcut"]] if "shortcut" in self.frame else self.frame

    def layers(self, network: str) -> pd.DataFrame:
        """The rows of one network, with the main columns."""
        frame = self.frame[self.frame["network"] == network]
        return frame[["index", "layer", "kind", "std", "rank", "predicted_std", "mean", "count"]]

    def findings(self) -> list[str]:
        """The findings on the paper's two claims and on the error of the prediction."""
        column, counted = "std" if self.measured else "predicted_std", self._counted()
        facts = [self.facts(network) for network in self.networks]
        said: list[str] = [*findings(counted, column, facts)]
        if not said and len(facts) == 1:
            said = [*one_network(self.networks[0], counted.set_index("layer")[column].dropna())]
        return [*said, *gaps(counted, facts)]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the responses, in order of execution above and by magnitude below (Fig. 7).

        Args:
            ax: The axes for the upper panel alone; None makes a figure of both.

        Returns:
            The axes of the upper panel.
        """
        from gradlab.results.responses.figure import plot_responses

        if ax is not None:
            return plot_responses(self.to_frame(), ax)
        return self._first_axes()

    def _draw(self, figure: Figure) -> Figure:
        """Both panels of Fig. 7."""
        from gradlab.results.responses.figure import responses_figure

        return responses_figure(self.to_frame(), figure)
