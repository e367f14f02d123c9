"""The result of a coordinate check: columns, exponents and findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, TypedDict

import pandas as pd

from gradlab.results.coordinates.findings import findings
from gradlab.results.coordinates.slopes import WRONG, slopes, wrong_layers
from gradlab.results.result import Result
from gradlab.results.schema import CoordinatesFacts
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(TypedDict):
    """The columns of a saved frame; see `CoordinatesResult`."""

    network: str
    axis: str
    value: int
    seed: int
    step: int
    layer: str
    index: int
    kind: str
    rms: float | None
    change: float | None
    update: float | None
    branch: float | None


class CoordinatesResult(Result):
    """Sizes of responses and of their changes against width and depth: one row per axis, value, seed, step and layer.

    Columns: network, axis (`width` or `depth`), value (of the axis), seed, step, layer, index (order of execution),
    kind (`input`, `hidden`, `output`, `fixed`, `vector`, `signal`, `block`), and as root mean squares of entries: rms
    (the response), change (its difference from step 0), update (its difference from the response to the same input with
    the layer's weights of step 0) and branch (its difference from the input, for elements of an `nn.ModuleList`).
    """

    name: ClassVar[str] = "coordinates"
    row: ClassVar[type] = Row
    known_facts: ClassVar[type] = CoordinatesFacts
    title: ClassVar[str | None] = "Coordinate check"
    table: ClassVar[str] = "slopes"
    captions: ClassVar[Mapping[str, str]] = {
        "coordinates": "Root mean square of each layer's response at initialization and of its change in training, "
        "against width or depth; unexpected scaling is red (Yang et al. 2022)."
    }
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("exponent", "error"), "{:.2f}".format),
        **dict.fromkeys(("low", "high"), "{:g}".format),
    }
    priority: ClassVar[Sequence[str]] = (
        "axis", "layer", "quantity", "exponent", "verdict", "low", "high", "error", "kind",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {
        "error": "standard error of exponent over networks",
        "low": "the exponent is expected to be from low to high",
    }

    @property
    def parametrization(self) -> str:
        """The parametrization with which exponents are compared: `mup` or `standard`."""
        return str(self.record["expected"]["parametrization"])

    def slopes(self) -> pd.DataFrame:
        """One row per axis, layer and quantity: exponent, standard error, expected range from low to high, verdict.

        Quantities are `size` (of the response at initialization), `branch` (the difference between a block's output and
        input at initialization), `change` (of the response after the last step) and `update` (the part of the change
        due to the layer's own weights).
        """
        return slopes(self.frame, self.record["expected"])

    def summary(self) -> pd.DataFrame:
        """The table of exponents."""
        return self.slopes()

    @property
    def passed(self) -> bool:
        """Whether all layers scale as expected."""
        return not self.wrong()

    def wrong(self) -> list[tuple[str, str]]:
        """The axes and layers of unexpected exponents, in order of execution."""
        return wrong_layers(self.slopes())

    def findings(self) -> list[str]:
        """The layers that scale differently from the parametrization."""
        return [*findings(self.slopes(), self.parametrization)]

    def figure(self) -> Figure:
        """Sizes and changes against width and depth."""
        from matplotlib.figure import Figure

        from gradlab.results.coordinates.figure import coordinates_figure

        table = self.slopes()
        wrong = table[table["verdict"].isin(WRONG)][["axis", "layer", "quantity"]]
        return coordinates_figure(self.frame, {*wrong.itertuples(index=False, name=None)}, Figure())
