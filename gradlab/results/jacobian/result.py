"""The result of measuring the singular values of an input-output Jacobian: columns and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import pandas as pd

from gradlab.results.jacobian.findings import findings
from gradlab.results.jacobian.summary import mean_squares
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Row(TypedDict):
    """The columns of a saved frame; see `JacobianResult`."""

    network: str
    seed: int | None
    example: int
    probe: int
    singular_value: float
    weight: float
    outputs: int
    inputs: int


class JacobianResult(Result):
    """Singular values of the Jacobian of one or several networks, with one row per node of a quadrature.

    Columns: network, seed, example, probe, singular_value, weight (the share of singular values that the node
    represents; the weights of a probe sum to 1), outputs (rows of the Jacobian), inputs. If there is a theory, the
    record has it as `law`: the `density` of log10 of the singular values for infinite width at the places
    `singular_value`, the `mean_square`, and its standard `deviation` over random weights.
    """

    name: ClassVar[str] = "jacobian"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Singular values of the Jacobian"
    captions: ClassVar[Mapping[str, str]] = {
        "jacobian": "Density of the logarithm of the singular values of the Jacobian of single examples, by stochastic "
        "Lanczos quadrature, beside the law of infinite width (Pennington et al. 2017).",
    }
    formats: ClassVar[Formats] = dict.fromkeys(("mean square", "±", "theory", "largest", "median"), "{:.3g}".format)
    priority: ClassVar[Sequence[str]] = (
        "network", "mean square", "±", "theory", "weights", "median", "largest", "of", "outputs", "inputs",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {
        "mean square": "of the singular values, tr(J·Jᵀ) / outputs",
        "±": "standard error of mean square over seeds, or over examples for one seed",
    }

    @classmethod
    def from_rows(
        cls, network: str, rows: Sequence[dict[str, Any]], notes: Sequence[str], facts: dict[str, Any] | None = None
    ) -> Self:
        """Return one network's result.

        Args:
            network: The name of the network.
            rows: One dict per node.
            notes: The notes on this measurement.
            facts: The facts on the network for the record.
        """
        frame = pd.DataFrame(rows)
        frame.insert(0, "network", network)
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))

    def summary(self) -> pd.DataFrame:
        """Return one row per network: the mean squared singular value with theory, the median and the largest."""
        known = {facts["network"]: facts for facts in self.record.get("networks", [])}
        rows = []
        for network, frame in self.frame.groupby("network", sort=False):
            facts, (mean, error) = known.get(network, {}), mean_squares(frame)
            ordered = frame.sort_values("singular_value")
            share = ordered["weight"].cumsum() / ordered["weight"].sum()
            rows.append(
                {
                    "network": facts.get("name", network),
                    "weights": facts.get("weights_label", "–"),
                    "of": facts.get("part") or "network",
                    "outputs": int(frame["outputs"].iloc[0]),
                    "inputs": int(frame["inputs"].iloc[0]),
                    "mean square": mean,
                    "±": error,
                    "theory": (facts.get("law") or {}).get("mean_square"),
                    "median": ordered["singular_value"].iloc[int((share < 0.5).sum())],
                    "largest": frame["singular_value"].max(),
                }
            )
        return pd.DataFrame(rows).astype({"theory": float})

    def findings(self) -> list[str]:
        """Return the findings: the mean squared singular value beside theory, and the spread of singular values."""
        return [*findings(self.frame, self.record.get("networks", []))]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the density of the singular values, with theory if there is one.

        Args:
            ax: The axes; None makes a figure.

        Returns:
            The axes drawn on.
        """
        from gradlab.results.jacobian.figure import plot_jacobian

        networks = self.record.get("networks", [])
        frame = self.to_frame()
        if ax is not None:
            return plot_jacobian(frame, networks, ax)
        return self._first_axes()

    def _draw(self, figure: Figure) -> Figure:
        """Return the density of the singular values."""
        from gradlab.results.jacobian.figure import jacobian_figure

        networks = self.record.get("networks", [])
        return jacobian_figure(self.to_frame(), networks, figure)
