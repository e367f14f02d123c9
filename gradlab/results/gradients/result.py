"""The result of measuring gradients layer by layer: its columns, and the joining of several probes' rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.results.columns import read_table
from gradlab.results.coverage import coverage_text
from gradlab.results.gradients.columns import COLUMNS, INTEGERS, ExampleRow, Row
from gradlab.results.gradients.findings import findings
from gradlab.results.gradients.noise import last_step, noise_findings
from gradlab.results.gradients.summary import body_of, coverage_share, depth_of, examples_row, logarithms, summary_row
from gradlab.results.joining import joined
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TOTAL = "total"
"""The layer and kind of the row of all measured parameters together."""

EXAMPLES_FILE = "gradients-examples.csv"


class GradientsResult(Result):
    """Gradients of one or several networks, with one row per layer and measured step in order of execution.

    Columns: network, seed, layer, index, kind; for the layer's weight without its bias numel, weight_norm, grad_norm,
    grad_rms (grad_norm / √numel) and relative (grad_norm / weight_norm); response_grad_rms, response_grad_norm and
    response_numel of ∂loss/∂response over all images, channels and positions; step (the number of preceding optimizer
    steps: 0 is the gradient at the first weights), call (the number of the layer's call), block (whether the row is the
    output of a block, which has its own index), non_finite (whether the gradient contains NaN or infinite values),
    absent (the reason for a missing gradient: `frozen`, `not reached`, `cleared`, `no graph`, `not run`), shortcut
    (whether the layer is the projection of a shortcut, which the summary and depth leave out).

    Norms are L2. Values that were not measured are missing. `ExampleGradients` adds examples, example_norm, variance,
    noise_scale, diversity and mean_cosine, and a row whose layer and kind are `total`, without an index.

    `gl.gradients` adds batches (the number over which norms are averaged), dtype, float32_error (the relative error of
    float32 norms on a few images) and theory (the predicted norm at initialization, up to one factor for all layers of
    one shape), and keeps single examples in `examples`.

    Attributes:
        examples: One row per example and layer: network, seed, example, loss, layer (`total` for all parameters), norm;
            None if they were not measured.
    """

    examples: pd.DataFrame | None = None

    name: ClassVar[str] = "gradients"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Gradients, layer by layer"
    captions: ClassVar[Mapping[str, str]] = {
        "gradients": "Size of the loss's gradient in each layer, in order of execution: over seeds the geometric mean "
        "with a band of its 95 % interval (Student's t); dotted, theory at initialization in the limit of infinite "
        "width (He et al. 2015b; Yang et al. 2019; De and Smith 2020). Below, of networks of several depths, the first "
        "layer's over the last one's, with bars of their 95 % intervals: squares are plain nets, circles residual, "
        "open ones trained.",
    }
    formats: ClassVar[Formats] = {
        "depth": "{:d}".format,
        "coverage": coverage_text,
        "first / last": "{:.3g}".format,
        "×/÷": "{:.2f}".format,
        **dict.fromkeys(("example norm", "tr Σ", "|G|²", "noise scale", "diversity", "mean cosine"), "{:.4g}".format),
        **dict.fromkeys(("growth a layer", "±", "theory"), "{:.3f}".format),
        **dict.fromkeys(("float32 off by", "float32_error"), "{:.1e}".format),
        **dict.fromkeys(("weight_norm", "grad_norm", "grad_rms", "relative", "response_grad_rms"), "{:.4g}".format),
    }

    priority: ClassVar[Sequence[str]] = (
        "network", "first / last", "growth a layer", "theory", "weights", "depth", "×/÷", "±", "noise scale", "tr Σ",
        "|G|²", "mean cosine", "BN", "seeds", "claim", "coverage", "diversity", "example norm", "dtype",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {
        "×/÷": "standard error of first / last over seeds, as a factor",
        "±": "standard error of growth a layer over seeds; for one seed, of the fit over its layers",
    }

    @classmethod
    def from_rows(
        cls,
        network: str,
        rows: Sequence[Mapping[str, Any]],
        notes: Iterable[str] = (),
        facts: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Self:
        """Make the result of one network.

        Args:
            network: The name of the network.
            rows: One dict per layer and step, with at least the columns layer, index, kind and step.
            notes: The notes on this measurement.
            facts: The facts on the network for the record.
            seed: The seed of its initial weights, if it was measured at initialization.
        """
        frame = pd.DataFrame(list(rows))
        frame["network"], frame["seed"] = network, seed
        more = [column for column in frame if column not in COLUMNS]
        frame = frame.reindex(columns=COLUMNS + more)
        frame["call"] = frame["call"].fillna(1)
        for column in ("block", "non_finite", "shortcut"):
            frame[column] = frame[column].eq(True)
        frame = frame.astype(dict.fromkeys(INTEGERS, "Int64") | {"absent": object})
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))

    @classmethod
    def concat(cls, results: Iterable[Self]) -> Self:
        """Concatenate the results of several networks, with their examples; see `Result.concat`."""
        parts = cls._told_apart(results)
        whole = super().concat(parts)
        examples = [part.examples for part in parts if part.examples is not None]
        whole.examples = pd.concat(examples, ignore_index=True) if examples else None
        return whole

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        if EXAMPLES_FILE in digests:
            self.examples = read_table(folder / EXAMPLES_FILE, ExampleRow, digests[EXAMPLES_FILE])

    def _renamed(self, names: Mapping[str, str]) -> Self:
        result = super()._renamed(names)
        if self.examples is not None:
            result.examples = self.examples.assign(network=self.examples["network"].map(names))
        return result

    def _more_files(self) -> dict[str, bytes]:
        return {} if self.examples is None else {EXAMPLES_FILE: self.examples.to_csv(index=False).encode()}

    @classmethod
    def join(cls, results: Iterable[Self]) -> Self:
        """Join the results of several probes on the same networks at the same steps.

        Rows of one network, seed, step, layer and call are merged; if two results have the same value, that of the
        first is kept, including the reason for a missing gradient.

        Args:
            results: The results of the probes, in order of precedence.

        Raises:
            UsageError: If there is no result, or one that is not of gradients.
        """
        first, *others = cls._alike(results, "join")
        frame = first.frame
        for other in others:
            frame = joined(frame, other.frame)
        notes = [note for result in (first, *others) for note in result.notes]
        facts = {network: dict(first.facts(network)) for network in first.networks}
        for other in others:
            for network, known in facts.items():
                facts[network] = other.facts(network) | known
        return cls(frame, {**first.record, "networks": [*facts.values()]}, list(dict.fromkeys(notes)))

    def layers(self, network: str | None = None) -> pd.DataFrame:
        """The rows of layers, without those of blocks and totals.

        Args:
            network: The network whose rows are returned; None returns the rows of all networks.
        """
        return self._rows(~self.frame["block"] & (self.frame["kind"] != TOTAL), network)

    def blocks(self, network: str | None = None) -> pd.DataFrame:
        """The rows of the outputs of blocks."""
        return self._rows(self.frame["block"], network)

    def totals(self, network: str | None = None) -> pd.DataFrame:
        """One row per step for all measured parameters together, with each element counted once.

        For `ParameterGradients(parameters="all")`, grad_norm is the value that `clip_grad_norm_` returns;
        `ExampleGradients` adds more columns.
        """
        rows = self._rows(self.frame["kind"] == TOTAL, network)
        known = [
            {"network": facts["network"], "layer": TOTAL, "kind": TOTAL, "call": 1, "block": False, **total}
            for facts in self.record.get("networks", [])
            for total in facts.get("totals", [])
            if network in (None, facts["network"])
        ]
        if len(rows) or not known:
            return rows
        frame = pd.DataFrame(known).reindex(columns=COLUMNS)
        return frame.astype({**dict.fromkeys(INTEGERS, "Int64"), "shortcut": bool, "absent": object})

    @property
    def value(self) -> str:
        """The column in table and figure, from the option `mode` or from the measured quantities."""
        responses = self.record.get("options", {}).get("mode") == "responses"
        return "response_grad_rms" if responses or not self.frame["grad_norm"].notna().any() else "grad_norm"

    def body(self, network: str) -> pd.DataFrame:
        """The layers of one network that are compared across depth, at the last step; see `summary`.

        If none of them has a gradient, they are chosen from the layers that have one.
        """
        layers = self._last(network)
        body, there = body_of(layers), layers[layers["absent"].isna()]
        return body_of(there) if len(there) and body["absent"].notna().all() else body

    def _last(self, network: str) -> pd.DataFrame:
        """The layers of one network at the last step, with the column theory."""
        layers = self.layers(network)
        layers = layers[layers["step"] == layers["step"].max()]
        return layers if "theory" in layers else layers.assign(theory=float("nan"))

    def summary(self) -> pd.DataFrame:
        """One row per network: first-to-last ratio and growth per layer of the gradient with their errors, and theory.

        They are over 3×3 convolutions, or else over the most common kind of layer, and over seeds; see `summary_row`.
        """
        summary = self._summed_up()
        always: tuple[str, ...] = ("network", "weights", "BN", "depth", "first / last", "growth a layer", "seeds")
        if summary["tr Σ"].notna().any():
            # A noise scale that is not resolved is missing.
            always += ("noise scale",)
        return summary[[name for name in summary if name in always or summary[name].notna().any()]]

    def _summed_up(self) -> pd.DataFrame:
        """The summary, including columns without values."""
        return pd.DataFrame(
            [
                summary_row(
                    self.body(network),
                    self.value,
                    {"depth": depth_of(self.layers(network)), **self.facts(network)},
                )
                | examples_row(last_step(self.totals(network)))
                | {"coverage": coverage_share(self.facts(network))}
                for network in self.networks
            ]
        )

    def layers_table(self, network: str) -> pd.DataFrame:
        """The rows of one network, with the main columns."""
        columns = ["seed", "index", "layer", "kind", "weight_norm", "grad_norm", "relative", "response_grad_rms"]
        layers = self.layers(network)
        return layers[columns + [name for name in ("float32_error", "absent") if name in layers]]

    def findings(self) -> list[str]:
        """Findings on plain and residual nets, on each network and the literature's claim on it, and on noise."""
        facts = [self.facts(network) for network in self.networks]
        ratios = [logarithms(self.body(network), self.value) for network in self.networks]
        return [
            *findings(self._summed_up(), facts, ratios),
            *noise_findings({network: last_step(self.totals(network)) for network in self.networks}),
        ]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw norms against depth.

        Args:
            ax: The axes for the upper panel alone; None makes the whole figure.

        Returns:
            The axes of the upper panel.
        """
        from gradlab.results.gradients.figure import plot_gradients

        if ax is not None:
            return plot_gradients(self._drawn_rows(), ax, self.value)
        return self._first_axes()

    def _draw(self, figure: Figure) -> Figure:
        """Norms against depth, and first-to-last ratios against the depth of the networks."""
        from gradlab.results.gradients.figure import gradients_figure

        return gradients_figure(self._drawn_rows(), self._drawn_summary(), figure, self.value)

    def _drawn_rows(self) -> pd.DataFrame:
        """All layers at the last step; the column body marks those that the line connects."""
        parts = []
        for network in self.networks:
            rows = self._last(network)
            parts.append(rows.assign(body=rows.index.isin(self.body(network).index)))
        return self.described(pd.concat(parts, ignore_index=True))

    def _drawn_summary(self) -> pd.DataFrame:
        """The summary, with the labels and properties of networks instead of their names."""
        networks = self.described(pd.DataFrame({"network": self.networks}))
        return self._summed_up().assign(**networks.drop(columns="weights"))

    def _rows(self, chosen: pd.Series, network: str | None) -> pd.DataFrame:
        if network is not None:
            if network not in self.networks:
                raise GradlabError(f"no gradients of {network}: measured were {', '.join(self.networks)}")
            chosen = chosen & (self.frame["network"] == network)
        return self.frame[chosen].reset_index(drop=True)
