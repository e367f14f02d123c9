"""The result of comparing two runs: their values side by side, and where they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, TypedDict

import pandas as pd

from gradlab.errors import UsageError
from gradlab.results.compare_runs.differences import Difference, beyond_noise, first_bit
from gradlab.results.compare_runs.findings import findings
from gradlab.results.compare_runs.pairs import Pair, pairs_in
from gradlab.results.dynamics.names import DRAWN
from gradlab.results.grouping import counted
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 3
"""The largest number of statistics in the figure by default."""


class Row(TypedDict):
    """The columns of a saved frame; see `ComparisonResult`."""

    step: int
    layer: str
    index: int
    block: NotRequired[str | None]
    statistic: str
    first: float | None
    second: float | None


@dataclass(repr=False)
class ComparisonResult(Result):
    """The statistics of two runs at the steps and layers that both have recorded.

    Columns: step, layer, index (place in the order of execution, 0 for the whole model), block, statistic, first and
    second, the values of the two runs: missing where a run has none, infinite where it is not finite.

    Attributes:
        drawn: Which statistics the figure shows; none stands for that in which the runs part first, gradient norms
            and stds of responses.
    """

    drawn: Sequence[str] = ()

    name: ClassVar[str] = "compare-runs"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Two runs compared"
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("equal until", "parts at", "differing layers"), "{:,d}".format),
        **dict.fromkeys(("before", "after"), "{:.3g}".format),
    }
    priority: ClassVar[Sequence[str]] = (
        *("statistic", "parts at", "layer", "before", "after", "equal until", "differing layers", "of"),
    )
    legend: ClassVar[Mapping[str, str]] = {
        "equal until": "the last step up to which both are the same to the last bit",
        "parts at": "the first step at which they differ beyond noise",
        "before": "the mean ratio of the second to the first before (of shares and cosines, the difference)",
        "after": "that at this step",
    }
    captions: ClassVar[Mapping[str, str]] = {
        "compare-runs": (
            "Each layer (upward, in order of execution) at each common step: the first run, the second, and the second "
            "over the first (of shares, cosines and means, the difference). The ring marks the first difference beyond "
            "noise of each statistic; the dashed line is the first of all, the dotted line the first step at which the "
            "runs are not the same to the last bit."
        )
    }

    @property
    def networks(self) -> list[str]:
        """The names of the two runs."""
        return [str(facts["network"]) for facts in self.record["networks"]]

    def to_frame(self) -> pd.DataFrame:
        """A copy of the tidy frame."""
        return self.frame.copy()

    @cached_property
    def pairs(self) -> list[Pair]:
        """The frame as tables, one for each statistic of layers or of the whole model."""
        return pairs_in(self.frame)

    @cached_property
    def differences(self) -> list[Difference]:
        """Where the runs part beyond noise: the first place of each statistic that has one, the earliest first."""
        found = [beyond_noise(pair, len(self.pairs)) for pair in self.pairs]
        return sorted(filter(None, found), key=lambda one: one.order)

    @cached_property
    def bits(self) -> list[Difference]:
        """Where the runs are not the same to the last bit: the first place of each statistic, the earliest first."""
        return sorted(filter(None, map(first_bit, self.pairs)), key=lambda one: one.order)

    @property
    def same(self) -> bool:
        """Whether the runs are the same to the last bit."""
        return not self.bits

    @property
    def first_difference(self) -> Difference | None:
        """The first step and layer at which the runs part beyond noise; None if they do not."""
        return self.differences[0] if self.differences else None

    def summary(self) -> pd.DataFrame:
        """One row per statistic, of layers or of the whole model: until when both are equal, and where they part."""
        rows = []
        for pair in self.pairs:
            bit, parted = first_bit(pair), beyond_noise(pair, len(self.pairs))
            until = len(pair.steps) if bit is None else pair.steps.index(bit.step)
            row: dict[str, Any] = dict.fromkeys(self.priority)
            of = counted(len(pair.layers), "layer") if pair.indices[0] else "the model"
            row |= {"statistic": pair.statistic, "of": of}
            row["equal until"] = pair.steps[until - 1] if until else None
            if parted is not None:
                row |= {"parts at": parted.step, "layer": parted.layer, "before": parted.before}
                row |= {"after": parted.change, "differing layers": parted.layers}
            rows.append(row)
        order = ("statistic", "of", "equal until", "parts at", "layer", "before", "after", "differing layers")
        frame = pd.DataFrame(rows)[[*order]]
        whole = dict.fromkeys(("equal until", "parts at", "differing layers"), "Int64")
        return frame.astype({**whole, "before": float, "after": float})

    def findings(self) -> list[str]:
        """Whether the runs are the same to the last bit, up to which step, and where they part beyond noise."""
        one, other = self.networks
        return [*findings(self.pairs, self.bits, self.differences, (one, other))]

    def figure(self) -> Figure:
        """Both runs side by side and their difference, layer × step in colour, with the first difference marked.

        Raises:
            UsageError: If a statistic was not recorded of the layers of both.
        """
        from matplotlib.figure import Figure

        from gradlab.results.compare_runs.figure import compare_figure

        known = {pair.statistic: pair for pair in self.pairs if pair.indices[0]}
        default = [*[one.statistic for one in self.differences if one.index][:1], *DRAWN]
        default = [name for name in dict.fromkeys(default) if name in known] or [*known]
        shown = list(self.drawn) or default[:MOST_DRAWN]
        if missing := [name for name in shown if name not in known]:
            raise UsageError(f"{', '.join(missing)} was not recorded by both runs; there is {', '.join(known)}")
        loss = next((pair for pair in self.pairs if pair.statistic == "loss" and not pair.indices[0]), None)
        bit = self.bits[0].step if self.bits else None
        return compare_figure([known[name] for name in shown], loss, self.networks, self.differences, bit, Figure())
