"""The result of a shatter measurement: autocorrelations, statistics by depth, layers, and the gradients themselves."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, TypedDict
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from gradlab.errors import GradlabError, UsageError, reason_of
from gradlab.results.columns import read_table
from gradlab.results.result import Result
from gradlab.results.schema import ShatterFacts
from gradlab.results.shatter.findings import findings, nearest_noise
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = ("acf", "signals", "correlation", "coactivation", "theory")


class Row(TypedDict):
    """The columns of a saved frame; see `ShatterResult`."""

    network: str
    norm: str | None
    depth: int
    lag: int
    acf: float | None
    acf_sem: float | None
    acf_pooled: float | None
    n_constant: int
    seeds: int
    theory: float | None


class SummaryRow(TypedDict):
    """The columns of the saved statistics."""

    network: str
    norm: str | None
    depth: int
    statistic: str
    value: float | None
    sem: float | None
    theory: float | None
    seeds: int
    from_layer: NotRequired[int | None]


class LayerRow(TypedDict):
    """The columns of the saved layers."""

    network: str
    norm: str | None
    depth: int
    layer: int
    activation: float | None
    coactivation: float | None
    always_on: float | None
    always_off: float | None
    path_correlation: float | None
    path_sem: float | None
    mean_path_correlation: float | None
    mean_path_sem: float | None
    law: float | None
    asymptote: float | None
    seeds: int


@dataclass(repr=False)
class ShatterResult(Result):
    """Correlation of gradients along a line of inputs, by family and depth.

    Attributes:
        frame: One row per network, depth and lag: network, norm, depth, lag, acf, acf_sem, acf_pooled, n_constant,
            seeds, theory.
        summary_frame: One row per network, depth and statistic: network, norm, depth, statistic, value, sem, theory (of
            the same quantity, missing if there is none), seeds, from_layer. The statistics path_correlation and
            pair_decay_exponent (or pair_decay_log_factor) are those of the fixed pair of inputs, mean_path_correlation
            and decay_exponent (or decay_log_factor) those of an average pair, to which the laws apply.
        layers_frame: One row per hidden layer of the deepest net: activation, coactivation, always_on, always_off,
            path_correlation of the fixed pair and mean_path_correlation of an average pair with their errors, and the
            law for the average pair.
        gradients: The gradients, (S, M), by network and depth.
        x: The inputs, (M,).
        figures: The figures that `save` draws, among `FIGURES`.
    """

    summary_frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    layers_frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    gradients: dict[tuple[str, int], np.ndarray] = field(default_factory=dict)
    x: np.ndarray = field(default_factory=lambda: np.empty(0))
    figures: Sequence[str] = ("acf",)

    name: ClassVar[str] = "shatter"
    row: ClassVar[type] = Row
    known_facts: ClassVar[type] = ShatterFacts
    title: ClassVar[str | None] = "Autocorrelation of gradients"
    table: ClassVar[str] = "table"
    captions: ClassVar[Mapping[str, str]] = {
        "shatter-acf": "Autocorrelation of the gradient along a line of inputs, with bands of its 95 % interval over "
        "seeds (Student's t), beside brown and white noise of as many points (Balduzzi et al. 2017, Fig. 2).",
        "shatter-signals": "Above: the gradient along the line, of one seed, divided by its largest magnitude. Below, "
        "of several seeds: its covariance over them, scaled to a diagonal of 1 (Balduzzi et al. 2017, Fig. 1).",
        "shatter-correlation": "Correlation of the gradients at a fixed pair of inputs against depth, by counting "
        "co-active paths and by sampling, with 95 % intervals (Student's t), beside the exact law of an average pair "
        "whose neurons are coin flips, and its asymptote (Balduzzi et al. 2017, Theorems 1 to 3).",
        "shatter-coactivation": "Of each layer of the deepest nets: neurons active at an input, active at both of a "
        "pair, and those that never switch (Balduzzi et al. 2017, §3.2).",
        "shatter-theory": "Left: autocorrelation at lag 1 against depth, with bars of its 95 % interval (Student's t), "
        "beside that of infinite width. Right: correlation of an average pair of inputs by counting co-active paths, "
        "beside the law of coin flips.",
    }
    formats: ClassVar[Formats] = {
        "depth": "{:d}".format,
        "lag-1 ACF": "{:.3f}".format,
        "±": "{:.3f}".format,
        "theory": "{:.3f}".format,
        "half-life": lambda lags: "never" if lags == float("inf") else f"{lags:.1f}",
        "co-activation": "{:.3f}".format,
    }
    priority: ClassVar[Sequence[str]] = (
        "family", "depth", "lag-1 ACF", "nearest to", "±", "theory", "half-life", "norm", "co-activation",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {"±": "standard error of the lag-1 ACF over seeds"}
    answer: ClassVar[int] = 1

    def summary(self) -> pd.DataFrame:
        """One row per network and depth: lag-1 autocorrelation, half-life in lags, co-activation, nearest noise."""
        rows = []
        for (network, norm, depth), part in self.summary_frame.groupby(["network", "norm", "depth"], sort=False):
            values = part.set_index("statistic")
            acf = self.frame.query("network == @network and depth == @depth")
            rows.append(
                {
                    "family": network,
                    "norm": norm,
                    "depth": depth,
                    "lag-1 ACF": values["value"].get("lag1"),
                    "±": values["sem"].get("lag1"),
                    "theory": values["theory"].get("lag1"),
                    "half-life": values["value"].get("half_life"),
                    "co-activation": values["value"].get("coactivation", np.nan),
                    "nearest to": nearest_noise(acf, self.record["noise"]),
                }
            )
        return pd.DataFrame(rows)

    def findings(self) -> list[str]:
        """The findings, in sentences with numbers, compared with the laws."""
        width = self.record.get("options", {}).get("width")
        return [*findings(self.summary_frame, self.frame, width, self.record.get("networks", []))]

    def plot(self, ax: Axes | None = None, network: str | None = None) -> Axes:
        """Draw the autocorrelation against lag of one network, with one line per depth.

        Args:
            ax: The axes; None makes a figure.
            network: The network; None takes the first.
        """
        import matplotlib.pyplot as plt

        from gradlab.plots.style import theme
        from gradlab.results.shatter.figure import plot_acf

        with theme():
            ax = ax or plt.figure().subplots()
            chosen = network or self.frame["network"].iloc[0]
            return plot_acf(self.to_frame()[self.frame["network"] == chosen], ax, self.record["noise"])

    def figure(self, which: str = "acf") -> Figure:
        """One of the figures.

        Args:
            which: The name of the figure: `acf`, `signals` (the paper's Fig. 1), `correlation` (of a fixed pair,
                against depth), `coactivation` or `theory` (against depth, with exact theory).

        Raises:
            UsageError: If there is no figure of this name, or its data was not measured.
        """
        from matplotlib.figure import Figure

        from gradlab.plots.networks import networks_of
        from gradlab.results.shatter.depth_figure import coactivation_figure, correlation_figure
        from gradlab.results.shatter.figure import acf_figure, signals_figure
        from gradlab.results.shatter.theory_figure import theory_figure

        if which not in FIGURES:
            raise UsageError(f"there are the figures {', '.join(FIGURES)}, not {which!r}")
        if which == "acf":
            return acf_figure(self.to_frame(), self.record["noise"], Figure())
        if which == "signals":
            return signals_figure(self.gradients, self.x, Figure(), networks_of(self.to_frame())["look"].to_dict())
        if self.layers_frame.empty:
            raise UsageError(f"the figure {which!r} shows layers, and a function of your own has none that are known")
        layers, summary = self.described(self.layers_frame), self.described(self.summary_frame)
        if which == "correlation":
            return correlation_figure(layers, summary, Figure())
        if which == "theory":
            return theory_figure(layers, summary, Figure())
        return coactivation_figure(layers, Figure())

    def _figures(self) -> Mapping[str, Callable[[], Figure]]:
        names = {which: self.name if which == "acf" else f"{self.name}-{which}" for which in self.figures}
        return {name: partial(self.figure, which) for which, name in names.items()}

    def _all_figures(self) -> Mapping[str, Callable[[], Figure]]:
        drawable = FIGURES if len(self.layers_frame) else FIGURES[:2]
        return {f"{self.name}-{which}": partial(self.figure, which) for which in drawable}

    def _more_files(self) -> dict[str, bytes]:
        """The other frames, and `gradients.npz` with x and one array (S, M) per network and depth."""
        arrays: dict[str, Any] = {f"{network}-depth={depth}": g for (network, depth), g in self.gradients.items()}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, x=self.x, **arrays)
        return {
            "shatter-summary.csv": self.summary_frame.to_csv(index=False).encode(),
            "shatter-layers.csv": self.layers_frame.to_csv(index=False).encode(),
            "gradients.npz": buffer.getvalue(),
        }

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        read = {name: read_table(folder / name, row, digests.get(name)) for name, row in _TABLES.items()}
        self.summary_frame, self.layers_frame = read.values()
        for frame in (self.frame, self.summary_frame):
            # A user's function has no norm, which is not a missing value.
            frame["norm"] = frame["norm"].astype(object).fillna("")
        try:
            with np.load(folder / "gradients.npz") as arrays:
                self.x = arrays["x"]
                for key in arrays.files[1:]:
                    network, _, depth = key.rpartition("-depth=")
                    self.gradients[network, int(depth)] = arrays[key]
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise GradlabError(f"{folder} holds no whole shatter result: {reason_of(error)}") from None


_TABLES = {"shatter-summary.csv": SummaryRow, "shatter-layers.csv": LayerRow}
