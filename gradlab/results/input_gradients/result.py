"""The result of measuring input gradients on images: columns, summary and findings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import numpy as np
import pandas as pd

from gradlab.results.input_gradients.findings import findings
from gradlab.results.intervals import WithError
from gradlab.results.result import Result
from gradlab.results.tables import Formats
from gradlab.stats.verdict import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Sample = Mapping[str, float | Sequence[float]]
"""The statistics of one batch by name: a number, or a number for every lag."""

HEADLINE = "relative_effective_rank"

TITLES = {
    HEADLINE: "rel. eff. rank",
    "relative_effective_rank_raw": "raw",
    "mean_cosine": "mean cosine",
    "mean_abs_cosine": "mean |cosine|",
    "row_norm_variation": "norm variation",
    "segment_lag1": "segment lag 1",
    "token_relative_effective_rank": "tokens: rank",
    "token_mean_cosine": "tokens: cosine",
}
"""The statistics that are single numbers, in the order of the table, and their titles."""


class Row(TypedDict):
    """The columns of a saved frame; see `InputGradientsResult`."""

    network: str
    norm: str
    depth: int
    statistic: str
    lag: int | None
    value: float | None
    sem: float | None
    theory: float | None
    seeds: int
    batches: int
    bn: str
    norm_grad: str
    acf_pooled: float | None
    n_constant: int | None


class InputGradientsResult(Result):
    """Correlation of the input gradients of networks over images, with one row per statistic and lag.

    Columns: network, norm (`bn`, `none`, …), depth, statistic, lag (for `segment_acf`, otherwise missing), value, sem,
    theory (for networks that are linear at initialization), seeds, batches, bn (`batch`, `eval`), norm_grad, and for
    `segment_acf` acf_pooled (with numerators and denominators, `segment_power`, summed over all segments) and
    n_constant (the number of segments with a constant gradient).

    `value` is the mean over seeds of the mean over batches. `sem` is the standard error over seeds, or over batches for
    one set of weights; it is missing for one set of weights and one batch.
    """

    name: ClassVar[str] = "shatter"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Correlation of input gradients"
    table: ClassVar[str] = "table"
    measurement: ClassVar[str] = "input-gradients"
    captions: ClassVar[Mapping[str, str]] = {
        "shatter": "How the gradients of the summed logits with respect to each image, or to the embeddings of each "
        "sequence, correlate, against depth: effective rank relative to Gaussian noise, mean cosine between images, "
        "autocorrelation along the segment between two images, and mean cosine between the tokens of a sequence. Bars: "
        "95 % intervals by Student's t (after Balduzzi et al. 2017).",
    }
    formats: ClassVar[Formats] = {
        "depth": "{:d}".format,
        "seeds": "{:d}".format,
        **dict.fromkeys(TITLES.values(), str),
    }
    priority: ClassVar[Sequence[str]] = (
        "network", "rel. eff. rank", "mean cosine", "segment lag 1", "tokens: cosine", "weights", "depth", "norm",
        "seeds", "derivative",
    )  # fmt: skip

    @classmethod
    def _frame_file(cls) -> str:
        return "shatter-summary.csv"

    def _more_files(self) -> dict[str, bytes]:
        return {"shatter.csv": self.acf().to_csv(index=False).encode()}

    @classmethod
    def from_samples(
        cls,
        network: str,
        samples: Sequence[Sequence[Sample]],
        *,
        depth: int,
        norm: str,
        bn: str,
        norm_grad: str,
        theory: Mapping[str, float] | None = None,
        notes: Iterable[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> Self:
        """Make the result of one network.

        Args:
            network: The label of the network.
            samples: The statistics of every batch for every seed, all with the same names.
            depth: The number of weighted layers.
            norm: The kind of normalization.
            bn: The statistics for batch normalization.
            norm_grad: The derivative of normalization, `frozen` or `full`.
            theory: The exact values by statistic, if there are any.
            notes: The notes on this measurement.
            facts: Other facts on the network for the record.
        """
        rows = []
        pooled, constant = _pooled([sample for seed in samples for sample in seed])
        for statistic, example in samples[0][0].items():
            value, sem = _mean_and_error([[sample[statistic] for sample in seed] for seed in samples])
            lags: list[int | None] = [None] if isinstance(example, float) else list(range(len(example)))
            for lag, one_value, one_sem in zip(lags, np.atleast_1d(value), np.atleast_1d(sem), strict=True):
                rows.append(
                    {
                        "network": network,
                        "norm": norm,
                        "depth": depth,
                        "statistic": statistic,
                        "lag": lag,
                        "value": one_value,
                        "sem": one_sem,
                        "theory": (theory or {}).get(statistic, float("nan")),
                        "seeds": len(samples),
                        "batches": len(samples[0]),
                        "bn": bn,
                        "norm_grad": norm_grad,
                        "acf_pooled": float("nan") if lag is None else pooled[lag],
                        "n_constant": None if lag is None else constant,
                    }
                )
        frame = pd.DataFrame(rows).astype({"lag": "Int64", "n_constant": "Int64"})
        return cls(frame, {"networks": [{**(facts or {}), "network": network, "bn": bn}]}, list(notes))

    def value(self, network: str, statistic: str = HEADLINE) -> tuple[float, float]:
        """The value and standard error of one statistic of one network; NaN if it was not measured."""
        frame = self.frame
        rows = frame[(frame["network"] == network) & (frame["statistic"] == statistic)]
        return (math.nan, math.nan) if rows.empty else (float(rows["value"].iloc[0]), float(rows["sem"].iloc[0]))

    def acf(self) -> pd.DataFrame:
        """The autocorrelation along the segments, with the columns of `shatter.csv`."""
        rows = self.frame[self.frame["statistic"] == "segment_acf"].reset_index(drop=True)
        renamed = rows.rename(columns={"value": "acf", "sem": "acf_sem"})
        return renamed[["network", "norm", "depth", "lag", "acf", "acf_sem", "acf_pooled", "n_constant", "seeds"]]

    def summary(self) -> pd.DataFrame:
        """One row per network: every statistic that was measured, with its standard error."""
        titles = {name: title for name, title in TITLES.items() if name in set(self.frame["statistic"])}
        rows = []
        for network in self.networks:
            first = self.frame[self.frame["network"] == network].iloc[0]
            facts = self.facts(network)
            rows.append(
                {
                    "network": facts.get("name", network),
                    "weights": facts.get("weights_label", "–"),
                    "depth": int(first["depth"]),
                    "norm": f"bn {first['bn']}" if first["norm"] == "bn" else first["norm"],
                    "derivative": first["norm_grad"] if first["bn"] not in ("eval", "none") else "–",
                    **dict.fromkeys(titles.values()),
                    "seeds": int(first["seeds"]),
                }
            )
        summary = pd.DataFrame(rows)
        for name, title in titles.items():
            values = [WithError(*self.value(network, name)) for network in self.networks]
            summary[title] = pd.Series(values, dtype=object)
        return summary

    def legend_lines(self) -> list[str]:
        """The explanation of the errors."""
        return ["±: standard error over seeds, or over the batches of one set of weights."]

    def estimate(self, network: str, statistic: str = HEADLINE) -> Estimate:
        """The estimate of one statistic of one network, over its seeds or over the batches of one set of weights."""
        value, sem = self.value(network, statistic)
        first = self.frame[self.frame["network"] == network].iloc[0]
        return Estimate.mean(value, sem, int(first["seeds"] if first["seeds"] > 1 else first["batches"]))

    def findings(self) -> list[str]:
        """Findings on plain and residual nets at every depth, each family against depth, and linear networks."""
        return [*findings(self.frame, self.record.get("networks", []), self.estimate)]

    def plot(self, ax: Axes | None = None, statistic: str = HEADLINE) -> Axes:
        """Draw a statistic against depth.

        Args:
            ax: The axes; None makes the whole figure.
            statistic: The name of a statistic that is a single number.

        Returns:
            The axes drawn on, the upper one of the figure.
        """
        from gradlab.results.input_gradients.figure import plot_against_depth

        if ax is not None:
            return plot_against_depth(self.to_frame(), ax, statistic)
        return self._first_axes()

    def _draw(self, figure: Figure) -> Figure:
        """Relative effective rank, mean cosine and the segments' lag 1, against depth."""
        from gradlab.results.input_gradients.figure import input_gradients_figure

        return input_gradients_figure(self.to_frame(), figure)


def _mean_and_error(samples: list[list[Any]]) -> tuple[np.ndarray, np.ndarray]:
    """The mean over seeds of the means over batches, and its standard error; see `InputGradientsResult`."""
    by_seed = np.stack([np.mean(batches, axis=0) for batches in samples])
    units = by_seed if len(by_seed) > 1 else np.asarray(samples[0])
    with np.errstate(invalid="ignore"):
        error = np.full_like(by_seed[0], np.nan)
        if len(units) > 1:
            error = units.std(axis=0, ddof=1) / math.sqrt(len(units))
    return by_seed.mean(axis=0), error


def _pooled(samples: Sequence[Sample]) -> tuple[np.ndarray, int]:
    """The autocorrelation with numerators and denominators summed over segments, and the number of constant ones."""
    if "segment_acf" not in samples[0]:
        return np.array([]), 0
    acf, power = (np.array([sample[name] for sample in samples]) for name in ("segment_acf", "segment_power"))
    constant = int((power == 0).sum())
    # If all are constant, all have autocorrelation 1.
    return np.average(acf, axis=0, weights=power if power.any() else None), constant
