"""The errors of plain and residual nets across depth, with the records of their runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from gradlab.results.training.result import CAPTION, TrainingResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class DegradationResult(TrainingResult):
    """The runs of `gradlab degradation`: plain and residual nets of several depths, as a `TrainingResult`."""

    name: ClassVar[str] = "degradation"
    title: ClassVar[str | None] = "Error of plain and residual nets"
    captions: ClassVar[Mapping[str, str]] = {"degradation": f"{CAPTION} After He et al. 2015, Fig. 6."}

    def last_errors_figure(self) -> Figure:
        """The errors of the last epoch as marks, with the paper's test errors (He et al. 2015, Table 6)."""
        from matplotlib.figure import Figure

        from gradlab.results.degradation.figure import last_errors_figure

        return last_errors_figure(self.summary(), Figure())

    @classmethod
    def record_file(cls) -> str:
        """`degradation.json`."""
        return "degradation.json"
