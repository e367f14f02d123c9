"""The result of counting the multiply-adds of networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class ArchitecturesResult(Result):
    """One row per network and stage: network, stage, multiply_adds, layers, parameters, paper_multiply_adds.

    The last three columns are of the whole network; paper_multiply_adds is printed by He et al. 2015 with two digits.
    """

    name: ClassVar[str] = "architectures"
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
        """The differences of the counts from the paper's."""
        off = (self.summary().dropna().set_index("network").eval("`multiply-adds` / paper - 1")).abs()
        if off.empty:
            return []
        return [
            f"The counts are those of the paper within {off.max():.1%}, at most, of {off.idxmax()}; the paper prints "
            "two or three digits."
        ]

    def figure(self) -> Figure:
        """Multiply-adds by stage."""
        from matplotlib.figure import Figure

        from gradlab.results.architectures.figure import architectures_figure

        return architectures_figure(self.frame, Figure())
