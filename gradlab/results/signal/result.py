"""The result of measuring the signal block by block: columns and summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd

from gradlab.results.label import described
from gradlab.results.result import Result
from gradlab.results.signal.findings import findings
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


class SignalResult(Result):
    """Stream and branches of every block of one network or several, and their gradients: a row a block and branch.

    Columns, in order of execution: network; block; branch (`attn`, `mlp`, or the branch's module; empty where a block
    has one branch or none); index (the block's place); stream_std and stream_mean_square (of the stream behind the
    addition, the block's output: the root of the average channel variance and the average squared channel mean of
    Brock et al. 2021, arXiv:2101.08692, over examples and positions); branch_std (the same of the branch as it is
    added); ratio (the branch's average channel variance over that of the stream it is added to); cosine (of branch and
    that stream, not centred); stream_grad_rms and branch_grad_rms (RMS of the loss's gradient over all elements);
    theory (what is predicted for stream_total_std); call; branch_mean_square; input_std and input_mean_square (of the
    stream before the addition); stream_total_std (over channels, examples and positions alike: its variance is the
    average channel variance and that of the channels' means together); channels; count; non_finite.
    """

    name: ClassVar[str] = "signal"
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
        **dict.fromkeys(("mean |cosine|",), "{:.3f}".format),
        **dict.fromkeys(("gradient first / last",), "{:.3g}".format),
    }

    @classmethod
    def from_rows(
        cls, network: str, rows: Sequence[dict[str, Any]], notes: Sequence[str], facts: dict[str, Any] | None = None
    ) -> Self:
        """Return one network's result.

        Args:
            network: Name of the network.
            rows: A dict a block and branch, in order of execution.
            notes: Sentences on this measurement.
            facts: What the record says of the network.
        """
        frame = pd.DataFrame(rows).assign(network=network, theory=np.nan)
        frame = frame[[*COLUMNS, *(column for column in frame if column not in COLUMNS)]]
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read back what `save` wrote; see `Result.load`."""
        result = super().load(folder)
        # In a file the empty name of a branch is a missing value.
        result.frame["branch"] = result.frame["branch"].astype(object).fillna("")
        return result

    def facts(self, network: str) -> dict[str, Any]:
        """Return what the record says of one network."""
        known = (entry for entry in self.record.get("networks", []) if entry["network"] == network)
        return next(known, {"network": network})

    def summary(self) -> pd.DataFrame:
        """Return a row a network: how stream, branches and gradients go from the first block to the last."""
        rows = []
        for network in self.networks:
            frame = self.frame[self.frame["network"] == network]
            facts, blocks = self.facts(network), outputs(frame)
            gradients = blocks["stream_grad_rms"]
            rows.append(
                {
                    "network": facts.get("name", network),
                    "weights": facts.get("weights_label", "–"),
                    "BN": facts.get("bn", "–"),
                    "blocks": blocks["index"].nunique(),
                    "branches": ", ".join(dict.fromkeys(filter(None, frame["branch"]))) or "–",
                    "stream std, first": blocks["stream_total_std"].iloc[0],
                    "stream std, last": blocks["stream_total_std"].iloc[-1],
                    "median ratio": frame["ratio"].median(),
                    "last ratio": frame["ratio"].iloc[-1],
                    "mean |cosine|": frame["cosine"].abs().mean(),
                    "gradient first / last": gradients.iloc[0] / gradients.iloc[-1],
                }
            )
        return pd.DataFrame(rows)

    def blocks(self, network: str) -> pd.DataFrame:
        """Return one network's rows, with the columns a reader wants."""
        frame = self.frame[self.frame["network"] == network]
        return frame[[column for column in COLUMNS[1:] if frame[column].notna().any()]]

    def findings(self) -> list[str]:
        """Return what the measurement shows: how the stream grows, what blocks change, how gradients go."""
        return [*findings(self.frame, [self.facts(network) for network in self.networks])]

    def plot(self, ax: Axes | None = None, value: str = "stream_variance") -> Axes:
        """Draw one quantity against blocks.

        Args:
            ax: Where to draw; None makes the figure of all quantities.
            value: A key of `gradlab.results.signal.figure.PANELS`.

        Returns:
            The axes drawn on, or the first of them.
        """
        from gradlab.plots import theme
        from gradlab.results.signal.figure import plot_signal, signal_figure

        frame = described(self.frame, self.record.get("networks", []))
        if ax is not None:
            return plot_signal(frame, ax, value)
        with theme():
            import matplotlib.pyplot as plt

            return signal_figure(frame, plt.figure()).axes[0]

    def figure(self) -> Figure:
        """Return the signal propagation plot."""
        from matplotlib.figure import Figure

        from gradlab.results.signal.figure import signal_figure

        return signal_figure(described(self.frame, self.record.get("networks", [])), Figure())


def outputs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a row a network, seed and block: that of its last branch, behind which the stream is the block's output.

    Args:
        frame: Of signals.
    """
    keys = ["network", "index", *(["seed"] if "seed" in frame else [])]
    return frame.drop_duplicates(keys, keep="last")
