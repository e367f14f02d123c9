"""The rows and drawings of our figures of transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from gradlab.plots.marks import kind_marks
from gradlab.plots.style import DOTTED, PAGE_WIDTH, depth_colors
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.results.input_gradients.figure import input_gradients_figure
from gradlab.results.input_gradients.result import InputGradientsResult
from gradlab.results.label import description
from gradlab.results.signal.result import SignalResult
from gradlab.stats.verdict import Estimate

_THEORY: dict[str, Any] = {"linestyle": DOTTED, "linewidth": 1.0, "color": "black", "zorder": 4}

_SCALES = {"one": "", "sqrt": ", branches/√L", "completep": ", branches/L", "deepnorm": ", DeepNorm"}

LAST = 10
"""The number of recorded steps at the end of a training over which gradients are averaged."""


def words(facts: Mapping[str, Any]) -> str:
    """What distinguishes the blocks of a transformer: its norm, its scale, and whether there are shortcuts."""
    known = description(facts)
    scale = known["options"]["scale"]
    shortcuts = ", no shortcuts" if known["kind"] == "plain" else ""
    return f"{known['unit']}-norm{_SCALES.get(scale, f', {scale}')}{shortcuts}"


def stream_rows(result: SignalResult) -> pd.DataFrame:
    """The variance of the stream and of both branches of every block, with 95 % intervals over seeds and theory."""
    rows = []
    for network, part in result.frame.groupby("network", sort=False):
        facts = result.facts(str(network))
        added = (part["branch_std"] ** 2 + part["branch_mean_square"]).groupby([part["index"], part["seed"]]).sum()
        stream = part.drop_duplicates(["index", "seed"], keep="last").set_index(["index", "seed"])
        measured = {"stream": stream["stream_total_std"] ** 2, "branches": added}
        expected = {"stream": (stream["theory"] ** 2).groupby("index").mean(), "branches": _predicted_branches(facts)}
        for quantity, values in measured.items():
            for block, samples in values.groupby("index"):
                estimate = Estimate.of(samples)
                row = {"network": network, "blocks": words(facts), "quantity": quantity, "block": block}
                row |= {"value": estimate.value, **dict(zip(("low", "high"), estimate.interval(), strict=True))}
                rows.append(row | {"theory": expected[quantity].get(block), "seeds": len(samples)})
    return pd.DataFrame(rows)


def _predicted_branches(facts: Mapping[str, Any]) -> pd.Series[float]:
    """The sum of the variances that both branches of a block add, for different tokens, by block."""
    from gradlab.theory import exchangeable_kernel, stream_variance, transformer_law

    known = description(facts)
    options = known["options"]
    start = exchangeable_kernel(options["tokens"], 1.0, 0.5 / options["vocabulary"])
    added = stream_variance(transformer_law(known).branch_kernels(start)).view(-1, 2).sum(1).tolist()
    return pd.Series(added, index=range(1, len(added) + 1))


def streams_figure(result: SignalResult) -> Figure:
    """Draw the variance of the stream and of what a block adds against blocks, with bands and theory."""
    rows = stream_rows(result)
    titles = {"stream": "variance of the stream", "branches": "variance of both branches of a block"}
    figure = _page(2.7)
    styles = _styles(rows["blocks"])
    for ax, (quantity, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        part = rows[rows["quantity"] == quantity]
        _plot_lines(part.rename(columns={"blocks": "line"}), ax, styles)
        for _, line in part.groupby("blocks", sort=False):
            ax.plot(line["block"], line["theory"], **_THEORY)
        ax.set(title=title, xlabel="block", yscale="log")
    _add_legend(figure, styles, [Line2D([], [], label="theory, infinite width", **_THEORY)])
    return figure


def gradient_rows(result: DynamicsResult) -> pd.DataFrame:
    """The norms of the gradients of every block, at the first recorded step and on average over the last ones."""
    frame = result.frame
    norms = frame[(frame["statistic"] == "grad_norm") & (frame["index"] > 0) & frame["block"].notna()]
    norms = norms[norms["block"] != ""]
    squares = norms.assign(value=norms["value"] ** 2)
    blocks = squares.groupby(["network", "step", "block"], sort=False)["value"].sum().pow(0.5).reset_index()
    rows = []
    for network, part in blocks.groupby("network", sort=False):
        steps = sorted(part["step"].unique())
        places = {block: place for place, block in enumerate(dict.fromkeys(part["block"]), 1)}
        for when, chosen in (("first step", steps[:1]), ("end", steps[-LAST:])):
            means = part[part["step"].isin(chosen)].groupby("block", sort=False)["value"].mean()
            for block, value in means.items():
                rows.append({"network": network, "when": when, "block": places[block], "value": value})
    return pd.DataFrame(rows)


def gradients_figure(result: DynamicsResult) -> Figure:
    """Draw gradient norms by block at the first step and at the end, and the norm of all gradients in between."""
    rows, frame = gradient_rows(result), result.frame
    figure = _page(2.5)
    styles = _styles(rows["network"])
    first, end, between = figure.subplots(1, 3)
    first.sharey(end)
    for ax, when, title in ((first, "first step", "first step"), (end, "end", f"mean of the last {LAST} records")):
        _plot_lines(rows[rows["when"] == when].rename(columns={"network": "line"}), ax, styles)
        ax.set(title=title, xlabel="block", yscale="log")
    total = frame[(frame["statistic"] == "grad_norm") & (frame["index"] > 0)]
    total = total.assign(value=total["value"] ** 2).groupby(["network", "step"], sort=False)["value"].sum().pow(0.5)
    _plot_lines(total.reset_index().rename(columns={"network": "line", "step": "block"}), between, styles)
    between.set(title="all layers, along the training", xlabel="step", yscale="log")
    first.set_ylabel("gradient norm")
    _add_legend(figure, styles, [])
    return figure


def shattering_rows(result: InputGradientsResult) -> pd.DataFrame:
    """The statistics that are single numbers, with the depth in blocks and the blocks in words."""
    frame = result.to_frame()
    kinds = {network: words(result.facts(network)) for network in result.networks}
    frame = frame.assign(depth=frame["network_depth"].astype(int), series=frame["network"].map(kinds))
    return frame[frame["lag"].isna()].drop(columns=["lag", "acf_pooled", "n_constant"])


def shattering_figure(result: InputGradientsResult) -> Figure:
    """Draw rank, cosine and autocorrelation of the gradients of embeddings against the number of blocks."""
    figure = input_gradients_figure(shattering_rows(result), Figure())
    figure.axes[-1].set_xlabel("blocks")
    return figure


def _page(height: float) -> Figure:
    figure = Figure(figsize=(PAGE_WIDTH, height))
    figure.set_layout_engine("constrained", h_pad=0.03, w_pad=0.04)
    return figure


def _styles(names: Sequence[str] | pd.Series[str]) -> dict[str, dict[str, Any]]:
    """A colour from light to dark, and a mark, for each name in order."""
    listed = list(dict.fromkeys(names))
    colors, marks = depth_colors(listed), kind_marks(listed)
    common = {"linestyle": "-", "markerfacecolor": "white", "markeredgewidth": 0.8}
    return {name: {"color": colors[name], "marker": marks[name], **common} for name in listed}


def _plot_lines(rows: pd.DataFrame, ax: Axes, styles: Mapping[str, dict[str, Any]]) -> None:
    """Draw `value` against `block` for each `line`, with a band from `low` to `high` if the rows have one."""
    for place, (name, part) in enumerate(rows.groupby("line", sort=False)):
        every = max(1, len(part) // 6)
        ax.plot(part["block"], part["value"], markevery=(place * every // 3 % every, every), **styles[str(name)])
        if "low" in part:
            band = part["low"].clip(lower=part["value"] / 10), part["high"]
            ax.fill_between(part["block"], *band, color=styles[str(name)]["color"], alpha=0.2, lw=0)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _add_legend(figure: Figure, styles: Mapping[str, dict[str, Any]], more: Sequence[Line2D]) -> None:
    handles = [Line2D([], [], label=name, **style) for name, style in styles.items()]
    figure.legend(handles=[*handles, *more], loc="outside upper center", ncols=4)
