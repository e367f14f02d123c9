"""The result of measuring gradients layer by layer: columns, and how several probes' rows are joined."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.results.result import Result

COLUMNS = [
    "network",
    "seed",
    "layer",
    "index",
    "kind",
    "numel",
    "weight_norm",
    "grad_norm",
    "grad_rms",
    "relative",
    "response_grad_rms",
    "response_grad_norm",
    "response_numel",
    "step",
    "call",
    "block",
    "non_finite",
    "absent",
]

TOTAL = "total"
"""Layer and kind of the row that stands for all measured parameters together."""

_INTEGERS = ("seed", "index", "numel", "response_numel", "step", "call")
_KEY = ("network", "seed", "step", "block", "layer", "call")


class GradientsResult(Result):
    """Gradients of one network or several: a row a layer and measured step, in order of execution.

    Columns: network, seed, layer, index, kind, and of the layer's weight, without its bias, numel, weight_norm,
    grad_norm, grad_rms (grad_norm / √numel) and relative (grad_norm / weight_norm); response_grad_rms,
    response_grad_norm and response_numel of ∂loss/∂response over all images, channels and positions; step
    (optimizer steps made before: 0 is the gradient at the first weights), call (which call of the layer), block
    (whether the row is the output of a block, with an index of its own), non_finite (whether the gradient holds
    NaN or infinite values), absent (why there is no gradient: `frozen`, `not reached`, `no graph`, `not run`).

    Norms are L2. What was not measured is missing. `ExampleGradients` adds examples, example_norm, variance,
    noise_scale, diversity and mean_cosine, and a row whose layer and kind are `total`, without an index.
    """

    name: ClassVar[str] = "gradients"
    title: ClassVar[str | None] = "Gradients"

    @classmethod
    def from_rows(
        cls,
        network: str,
        rows: Sequence[Mapping[str, Any]],
        notes: Iterable[str] = (),
        facts: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Self:
        """One network's result.

        Args:
            network: Name of the network.
            rows: A dict a layer and step; of the columns at least layer, index, kind and step.
            notes: Sentences on this measurement.
            facts: What the record says of the network.
            seed: Seed of its initial weights, where that is what it was measured at.
        """
        frame = pd.DataFrame(list(rows))
        frame["network"], frame["seed"] = network, seed
        more = [column for column in frame if column not in COLUMNS]
        frame = frame.reindex(columns=COLUMNS + more)
        frame["call"] = frame["call"].fillna(1)
        for column in ("block", "non_finite"):
            frame[column] = frame[column].eq(True)
        frame = frame.astype(dict.fromkeys(_INTEGERS, "Int64") | {"absent": object})
        return cls(frame, {"networks": [{"network": network, **(facts or {})}]}, list(notes))

    @classmethod
    def join(cls, results: Iterable[Self]) -> Self:
        """One result of what several probes measured of the same networks at the same steps.

        Rows of one network, seed, step, layer and call become one, with the values of each; where two have
        measured the same, the first one's stands, and so does what it says is absent.

        Args:
            results: The probes' results, in the order that decides.
        """
        first, *others = results
        frame = first.frame
        for other in others:
            frame = _joined(frame, other.frame)
        notes = [note for result in (first, *others) for note in result.notes]
        return cls(frame, first.record, list(dict.fromkeys(notes)))

    def layers(self, network: str | None = None) -> pd.DataFrame:
        """The rows of layers, without those of blocks and totals.

        Args:
            network: Only its rows; None takes all networks.
        """
        return self._rows(~self.frame["block"] & (self.frame["kind"] != TOTAL), network)

    def blocks(self, network: str | None = None) -> pd.DataFrame:
        """The rows of the outputs of blocks."""
        return self._rows(self.frame["block"], network)

    def totals(self, network: str | None = None) -> pd.DataFrame:
        """The rows of all measured parameters together, which `ExampleGradients` gives."""
        return self._rows(self.frame["kind"] == TOTAL, network)

    def _rows(self, chosen: pd.Series, network: str | None) -> pd.DataFrame:
        if network is not None:
            if network not in self.networks:
                raise GradlabError(f"no gradients of {network}: measured were {', '.join(self.networks)}")
            chosen = chosen & (self.frame["network"] == network)
        return self.frame[chosen].reset_index(drop=True)


def _joined(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of both, those with one key as one; the order is the first frame's, then the other's."""
    left, right = (part.set_axis(_keys(part), axis=0) for part in (frame, other))
    order = [*left.index, *right.index.difference(left.index, sort=False)]
    both = left.combine_first(right).loc[order]
    # What is missing here is not unknown: there is nothing non-finite, and the first one's gradient is there.
    both["non_finite"] = left["non_finite"].reindex(order, fill_value=False) | right["non_finite"].reindex(
        order, fill_value=False
    )
    shared = left.index.intersection(right.index)
    both.loc[shared, "absent"] = left.loc[shared, "absent"]
    columns = [*frame.columns, *(column for column in other.columns if column not in frame.columns)]
    return both.reset_index(drop=True)[columns].astype(frame.dtypes)


def _keys(frame: pd.DataFrame) -> list[str]:
    """One text a row: a missing seed would not be equal to itself."""
    return [str(row) for row in frame[list(_KEY)].itertuples(index=False, name=None)]
