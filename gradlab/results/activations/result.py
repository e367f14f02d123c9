"""The result of measuring the activity of rectifiers along a line of inputs: rates, runs and rasters."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypedDict
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from gradlab.errors import GradlabError, reason_of
from gradlab.results.activations.findings import findings
from gradlab.results.columns import read_table
from gradlab.results.intervals import WithError
from gradlab.results.result import Result
from gradlab.results.tables import Formats
from gradlab.stats.verdict import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Row(TypedDict):
    """The columns of a saved frame; see `ActivationsResult`."""

    network: str
    norm: str
    seed: int
    layer: int
    activation: float
    coactivation: float
    constant: float
    switch_rate: float
    theory: float | None


class RunRow(TypedDict):
    """The columns of the saved runs."""

    network: str
    length: int
    runs: float
    coin_flips: float


@dataclass(repr=False)
class ActivationsResult(Result):
    """The activity of the rectifiers of random nets along a line of inputs (Balduzzi et al. 2017, Fig. 4).

    Attributes:
        frame: One row per network, seed and layer: network, norm, seed, layer, activation and coactivation (the
            fractions of inputs, and of pairs of inputs, at which a neuron is active, averaged over neurons), constant
            (the fraction of neurons that never switch), switch_rate (the fraction of neighbouring inputs at which a
            neuron switches), and theory (the switch rate at infinite width, missing if there is none).
        runs_frame: One row per network and length: the mean number of runs of neighbouring inputs of this length at
            which a neuron of the last layer is active, and that of independent coin flips.
        rasters: Whether each neuron of the last layer is active at each input, (N, M), of the first seed, by network.
        x: The inputs, (M,).
    """

    runs_frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    rasters: dict[str, np.ndarray] = field(default_factory=dict)
    x: np.ndarray = field(default_factory=lambda: np.empty(0))

    name: ClassVar[str] = "activations"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Activity of rectifiers along a line of inputs"
    captions: ClassVar[Mapping[str, str]] = {
        "activations": "Above: inputs at which neurons of the last layer are active (black), of one net, ordered by "
        "their mean. Middle: number of runs of activity of each length, beside coin flips. Below: "
        "fraction of neighbouring inputs at which a neuron switches, by layer, with 95 % intervals over nets, beside "
        "infinite width (after Balduzzi et al. 2017, Fig. 4).",
    }
    formats: ClassVar[Formats] = {
        "layers": "{:d}".format,
        "switch rate": str,
        "co-activation": "{:.3f}".format,
        "never switch": "{:.3f}".format,
    }
    legend: ClassVar[Mapping[str, str]] = {
        "switch rate": "fraction of neighbouring inputs at which a neuron of the last layer switches, ± standard error"
    }

    def last_layers(self) -> pd.DataFrame:
        """The rows of the last layer of every network."""
        return self.frame[self.frame["layer"] == self.frame["layer"].max()]

    def summary(self) -> pd.DataFrame:
        """One row per network, on its last layer."""
        rows = []
        for network, own in self.last_layers().groupby("network", sort=False):
            rate = Estimate.of(own["switch_rate"])
            rows.append(
                {
                    "family": network,
                    "norm": own["norm"].iloc[0],
                    "layers": int(own["layer"].iloc[0]),
                    "switch rate": WithError(rate.value, rate.error),
                    "co-activation": own["coactivation"].mean(),
                    "never switch": own["constant"].mean(),
                }
            )
        rates = pd.Series([row["switch rate"] for row in rows], dtype=object)
        return pd.DataFrame(rows).assign(**{"switch rate": rates})

    def findings(self) -> list[str]:
        """The findings on how often neurons switch, compared with coin flips and with infinite width."""
        return [*findings(self.last_layers())]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the switch rate by layer.

        Args:
            ax: The axes; None makes the whole figure.

        Returns:
            The axes drawn on, or the first of them.
        """
        from gradlab.results.activations.figure import plot_switch_rates

        return self._first_axes() if ax is None else plot_switch_rates(self.to_frame(), ax)

    def _draw(self, figure: Figure) -> Figure:
        from gradlab.results.activations.figure import activations_figure

        return activations_figure(self.to_frame(), self.runs_frame, self.rasters, self.x, figure)

    def _more_files(self) -> dict[str, bytes]:
        buffer = io.BytesIO()
        packed = {name: np.packbits(raster, axis=1) for name, raster in self.rasters.items()}
        np.savez_compressed(buffer, x=self.x, **packed)  # type: ignore[arg-type]
        return {_RUNS: self.runs_frame.to_csv(index=False).encode(), _RASTERS: buffer.getvalue()}

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        self.runs_frame = read_table(folder / _RUNS, RunRow, digests.get(_RUNS))
        try:
            with np.load(folder / _RASTERS) as arrays:
                self.x = arrays["x"]
                for name in arrays.files[1:]:
                    self.rasters[name] = np.unpackbits(arrays[name], axis=1, count=len(self.x)).astype(bool)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise GradlabError(f"{folder} holds no whole activations result: {reason_of(error)}") from None
        if missing := [name for name in self.networks if name not in self.rasters]:
            raise GradlabError(
                f"{folder / _RASTERS} lacks {missing[0]}: it is damaged or from another run; measure again"
            )


_RUNS = "activations-runs.csv"
_RASTERS = "rasters.npz"
