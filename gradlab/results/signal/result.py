"""The result of measuring the signal block by block: columns and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NotRequired, Self, TypedDict

import numpy as np
import pandas as pd

from gradlab.results.result import Result
from gradlab.results.signal.findings import findings
from gradlab.results.signal.outputs import gradient_ratios, off_theory, outputs
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = (
    "network",
    "block",
    "branch",
    "index",
    "stream_std",
    "stream_mean_square",
    "branch_std",
    "ratio",
    "cosine",
    "stream_grad_rms",
    "branch_grad_rms",
    "theory",
)


class Row(TypedDict):
    """The columns of a saved frame; see `SignalResult`."""

    network: str
    block: str
    branch: str | None
    index: int
    stream_std: float | None
    stream_mean_square: float | None
    branch_std: float | None
    ratio: float | None
    cosine: float | None
    stream_grad_rms: float | None
    branch_grad_rms: float | None
    theory: float | None
    call: NotRequired[int]
    branch_mean_square: NotRequired[float | None]
    input_std: NotRequired[float | None]
    input_mean_square: NotRequired[float | None]
    stream_total_std: float | None
    channels: NotRequired[float | None]
    count: NotRequired[float | None]
    non_finite: NotRequired[float | None]
    token_rank: NotRequired[float | None]
    token_cosine: NotRequired[float | None]
    seed: NotRequired[int | None]


class SignalResult(Result):
    """Stream and branches of every block of one or several networks, and their gradients: one row per block and branch.

    Columns: network; block; branch (`attn`, `mlp`, or the branch's module; empty if a block has one branch or none);
    index (the block's place in order of execution); stream_std and stream_mean_square (of the stream after the
    addition, the block's output: the root of the average channel variance and the average squared channel mean of Brock
    et al. 2021, arXiv:2101.08692, over examples and positions); branch_std (the same for the branch as it is added);
    ratio (the average channel variance of the branch over that of the stream to which it is added); cosine (between the
    branch and that stream, not centred); stream_grad_rms and branch_grad_rms (the RMS of the loss's gradient over all
    elements); theory (the prediction for stream_total_std); call; branch_mean_square; input_std and input_mean_square
    (of the stream before the addition); stream_total_std (over channels, examples and positions together: its variance
    is the sum of the average channel variance and the variance of the channel means); channels; count; non_finite;
    token_rank and token_cosine, if they were measured (see `gl.BlockSignal`).
    """

    name: ClassVar[str] = "signal"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Signal propagation by block"
    captions: ClassVar[Mapping[str, str]] = {
        "signal": "Signal propagation by block (Brock et al. 2021): variance of the stream behind each block over "
        "channels, positions and examples; average channel variance of the branch as it is added, and its ratio to "
        "that of the stream it is added to; average squared channel mean of the stream; cosine of branch and stream; "
        "RMS of the loss's gradient with respect to the block's output.",
    }
    formats: ClassVar[Formats] = {
        "blocks": "{:d}".format,
        **dict.fromkeys(("stream std, first", "stream std, last", "median ratio", "last ratio"), "{:.3g}".format),
        **dict.fromkeys(("token rank, last",), "{:.3g}".format),
        **dict.fromkeys(("mean |cosine|",), "{:.3f}".format),
        **dict.fromkeys(("gradient first / last", "×/÷"), "{:.3g}".format),
        **dict.fromkeys(("off theory",), "{:.1%}".format),
        **dict.fromkeys(("seeds",), "{:d}".format),
    }
    priority: ClassVar[Sequence[str]] = (
        "network", "stream std, last", "gradient first / last", "median ratio", "token rank, last", "off theory",
        "weights", "blocks", "stream std, first", "×/÷", "seeds", "last ratio", "mean |cosine|", "branches", "BN",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {
        "stream std, last": "of the output of the last block, over channels, positions and examples",
        "median ratio": "variance of a branch over that of the stream to which it is added",
        "token rank, last": "participation ratio of the tokens after the last block, 1 if all are parallel",
        "×/÷": "standard error of the gradient's ratio over seeds, as a factor",
        "off theory": "mean distance of the stream's variance from the prediction",
    }
    covering: ClassVar[str] = "blocks hold"

    @classmethod
    def from_rows(
        cls, network: str, rows: Sequence[dict[str, Any]], notes: Sequence[str], facts: dict[str, Any] | None = None
    ) -> Self:
        """Return one network's result.

        Args:
            network: The name of the network.
            rows: One dict per block and branch, in order of execution.
            notes: The notes on this measurement.
            facts: The facts on the network for the record.
        """
        frame = pd.DataFrame(rows).assign(network=network, theory=np.nan)
        frame = frame[[*COLUMNS, *(column for column in frame if column not in COLUMNS)]]
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        # In a file the empty name of a branch is a missing value.
        self.frame["branch"] = self.frame["branch"].astype(object).fillna("")

    def summary(self) -> pd.DataFrame:
        """Return one row per network, with stream, branches and gradients from the first block to the last."""
        summary = pd.DataFrame([self._summed_up(network) for network in self.networks])
        without = [] if summary["off theory"].notna().any() else ["off theory"]
        return summary.drop(columns=without if summary["seeds"].max() > 1 else [*without, "×/÷", "seeds"])

    def _summed_up(self, network: str) -> dict[str, Any]:
        """Return the row of one network, with means over seeds."""
        frame = self.frame[self.frame["network"] == network]
        facts, blocks = self.facts(network), outputs(frame)
        stds = blocks.groupby("index")["stream_total_std"].mean()
        logs = np.log(gradient_ratios(blocks))
        chain = facts.get("chain", True)
        return {
            "network": facts.get("name", network),
            "weights": facts.get("weights_label", "–"),
            "BN": facts.get("bn", "–"),
            "blocks": len(stds),
            "branches": ", ".join(dict.fromkeys(filter(None, frame["branch"]))) or "–",
            "stream std, first": stds.iloc[0],
            "stream std, last": stds.iloc[-1],
            "off theory": off_theory(blocks).mean(),
            "median ratio": frame["ratio"].median(),
            "last ratio": frame.loc[frame["index"] == frame["index"].max()].groupby("branch")["ratio"].mean().iloc[-1],
            "mean |cosine|": frame["cosine"].abs().mean(),
            **_rank_of_tokens(blocks),
            "gradient first / last": np.exp(logs.mean()) if chain else np.nan,
            "×/÷": np.exp(logs.std() / len(logs) ** 0.5) if chain else np.nan,
            "seeds": len(logs),
        }

    def blocks(self, network: str) -> pd.DataFrame:
        """Return the rows of one network, with the main columns."""
        frame = self.frame[self.frame["network"] == network]
        return frame[[column for column in COLUMNS[1:] if frame[column].notna().any()]]

    def findings(self) -> list[str]:
        """Return the findings on the growth of the stream, the ratios of branches, and gradients."""
        return [*findings(self.frame, [self.facts(network) for network in self.networks])]

    def plot(self, ax: Axes | None = None, value: str = "stream_variance") -> Axes:
        """Draw one quantity against blocks.

        Args:
            ax: The axes; None makes the figure of all quantities.
            value: A key of `gradlab.results.signal.figure.PANELS`.

        Returns:
            The axes drawn on, or the first of them.
        """
        from gradlab.results.signal.figure import plot_signal

        frame = self.to_frame()
        if ax is not None:
            return plot_signal(frame, ax, value)
        return self._first_axes()

    def _draw(self, figure: Figure) -> Figure:
        """Return the signal propagation plot."""
        from gradlab.results.signal.figure import signal_figure

        return signal_figure(self.to_frame(), figure)


def _rank_of_tokens(blocks: pd.DataFrame) -> dict[str, float]:
    """Return the mean rank of the tokens after the last block, if it was measured."""
    if "token_rank" not in blocks:
        return {}
    return {"token rank, last": blocks.loc[blocks["index"] == blocks["index"].max(), "token_rank"].mean()}
