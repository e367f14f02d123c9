"""The result of counting the multiply-adds of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, TypedDict

import pandas as pd

from gradlab.results.finding import Finding
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Row(TypedDict):
    """The columns of a saved frame; see `ArchitecturesResult`."""

    network: str
    stage: str
    multiply_adds: int
    layers: int
    parameters: int
    paper_multiply_adds: float | None


PLAIN, VGG = "imagenet/plain34", "imagenet/vgg19"
EIGHTEEN = (
    "He et al. 2015, §3.3: “3.6 billion FLOPs (multiply-adds), which is only 18% of VGG-19 (19.6 billion FLOPs).”"
)


class ArchitecturesResult(Result):
    """One row per network and stage: network, stage, multiply_adds, layers, parameters, paper_multiply_adds.

    The last three columns are of the whole network; paper_multiply_adds is printed by He et al. 2015 with two digits.
    """

    name: ClassVar[str] = "architectures"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Architectures and their multiply-adds"
    captions: ClassVar[Mapping[str, str]] = {
        "architectures": "Multiply-adds for one image by stage, and what the paper prints (He et al. 2015, Table 1)."
    }
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("layers", "parameters", "multiply-adds"), "{:,d}".format),
        "paper": "{:,.0f}".format,
    }

    def summary(self) -> pd.DataFrame:
        """One row per network: weighted layers, parameters, multiply-adds, and those printed in the paper."""
        whole = self.frame.groupby("network", sort=False).agg(
            layers=("layers", "first"),
            parameters=("parameters", "first"),
            **{"multiply-adds": ("multiply_adds", "sum"), "paper": ("paper_multiply_adds", "first")},
        )
        return whole.reset_index()

    def findings(self) -> list[str]:
        """The differences of the counts from the paper's, and the plain net's share of VGG-19."""
        counts = self.summary().set_index("network")
        off = counts.dropna().eval("`multiply-adds` / paper - 1").abs()
        found = []
        if len(off):
            found.append(
                f"The counts are those of the paper within {off.max():.1%}, at most, of {off.idxmax()}; the paper "
                "prints two or three digits."
            )
        if {PLAIN, VGG} <= {*counts.index}:
            share = counts["multiply-adds"][PLAIN] / counts["multiply-adds"][VGG]
            found.append(Finding(f"{PLAIN} has {share:.1%} of the multiply-adds of {VGG}.", EIGHTEEN))
        return found

    def figure(self) -> Figure:
        """Multiply-adds by stage."""
        from matplotlib.figure import Figure

        from gradlab.results.architectures.figure import architectures_figure

        return architectures_figure(self.frame, Figure())
