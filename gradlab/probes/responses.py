"""Layer-response std (He et al. 2015, arXiv:1512.03385, §4.2, Fig. 7) off any model, while it runs."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradlab.errors import GradlabError
from gradlab.probes.finder import ResponseFinder, Site, is_normalization
from gradlab.probes.hooks import Probe
from gradlab.probes.prediction import batch_norm_std
from gradlab.probes.selection import Selection, layer_kind, layer_stride, select_layers
from gradlab.results import ResponsesResult
from gradlab.stats import WELL_CONDITIONED, Accumulator, CentredMoments, FastMoments, Moments


class ResponseStd(Probe):
    """Measures the standard deviation of layer responses over all that the model is run on.

    The response of a layer is its output after normalization and before any other nonlinearity or
    addition. Its std is the population std over all elements: images, channels and positions.

        with gl.ResponseStd(model) as probe:
            for images, _ in loader:
                model(images)
        probe.result().to_frame()

    Sums stay on the model's device and are merged in float64; nothing is stored and nothing waits for the
    device until the result is asked for. Non-finite values are counted and left out.

    Args:
        model: Any `torch.nn.Module`.
        layers: What to measure: a glob, a class, a predicate, or None for every convolution but the
            projections of shortcuts (see `select_layers`).
        exact: Use centred float64 moments: exact for any data, several times slower. The default is good to
            1e-6 while |mean| / std is at most 10, and the result says where that does not hold.
        per_channel: Also keep the moments of each channel, for `channels`.

    Raises:
        UsageError: When no layer is selected.
    """

    def __init__(
        self, model: nn.Module, layers: Selection = None, *, exact: bool = False, per_channel: bool = False
    ) -> None:
        super().__init__(model)
        self.layers = select_layers(self.model, layers)
        self.exact, self.per_channel = exact, per_channel
        self._accumulators: dict[Site, Accumulator] = {}
        self._finder = ResponseFinder(self.model, self.layers, self._observe, self._discard)

    def _attach(self, stack: ExitStack) -> None:
        self._finder.attach(stack)

    def _observe(self, site: Site, response: Tensor) -> None:
        accumulator = self._accumulators.get(site)
        if accumulator is None:
            accumulator = self._accumulators[site] = self._accumulator(site)
        accumulator.update(response)

    def _discard(self, site: Site) -> None:
        # Assigned and not deleted: the site keeps its place in the order of execution.
        self._accumulators[site] = self._accumulator(site)

    def _accumulator(self, site: Site) -> Accumulator:
        channel_dim = None
        if self.per_channel:
            channel_dim = 1 if isinstance(self.layers[site.layer], _ConvNd) else -1
        return CentredMoments(channel_dim) if self.exact else FastMoments(channel_dim)

    def result(self, network: str | None = None) -> ResponsesResult:
        """The measurement so far: one row a site, in order of execution.

        Args:
            network: What to call the model; by default its name from `gl.build`, else its class.

        Raises:
            GradlabError: When no forward pass of the model was seen.
        """
        table = self.moments()
        rows = []
        for index, (site, (count, mean, std, non_finite)) in enumerate(table.items(), 1):
            measured: dict[str, Any] = {"std": std, "mean": mean, "count": int(count), "non_finite": int(non_finite)}
            module, predicted = self.layers[site.layer], self._predicted(site)
            rows.append(response_row(site.layer, index, module, predicted, call=site.call, **measured))
        name = network or getattr(self.model, "name", type(self.model).__name__)
        return ResponsesResult.from_rows(str(name), rows, notes=self._notes(table))

    def moments(self) -> dict[Site, list[float]]:
        """Count, mean, std and non-finite values of each site so far, in order of execution, in one transfer.

        Raises:
            GradlabError: When no forward pass of the model was seen.
        """
        sites = self._measured_sites()
        return dict(zip(sites, self._table([self._accumulators[site].moments() for site in sites]), strict=True))

    def channels(self) -> pd.DataFrame:
        """Moments of each channel, with columns layer, call, channel, std, mean, count.

        Raises:
            GradlabError: When the probe was not made with `per_channel=True`, or saw no forward pass.
        """
        if not self.per_channel:
            raise GradlabError("channels were not kept: make the probe with per_channel=True")
        frames = []
        for site in self._measured_sites():
            m = self._accumulators[site].moments()
            columns = {"std": m.std, "mean": m.mean, "count": m.count}
            frame = pd.DataFrame({name: value.cpu().numpy() for name, value in columns.items()})
            frame.insert(0, "channel", range(len(frame)))
            frame.insert(0, "call", site.call)
            frame.insert(0, "layer", site.layer)
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    def _measured_sites(self) -> list[Site]:
        if not self._accumulators:
            raise GradlabError(
                "the probe saw no forward pass: run the model inside the `with` block, called as model(x) "
                "and not inside a compiled function"
            )
        return list(self._accumulators)

    def _table(self, moments: list[Moments]) -> list[list[float]]:
        """Count, mean, std and non-finite values of each site, in one transfer."""
        pooled = [m.pooled() if self.per_channel else m for m in moments]
        rows = [torch.stack((m.count, m.mean, m.std, m.non_finite)) for m in pooled]
        values: list[list[float]] = torch.stack([row.to(rows[0].device) for row in rows]).cpu().tolist()
        return values

    def _predicted(self, site: Site) -> float:
        norm = self._finder.norms.get(site)
        return float("nan") if norm is None else batch_norm_std(self.model.get_submodule(norm))

    def _notes(self, table: dict[Site, list[float]]) -> list[str]:
        notes = []
        if outside := sorted(self._finder.outside):
            notes.append(
                f"{', '.join(outside[:3])}{', …' if len(outside) > 3 else ''}: called outside the model's own forward, "
                "where the calls of a layer cannot be told apart"
            )
        if not self._finder.norms and any(is_normalization(module) for module in self.model.modules()):
            notes.append(
                "no normalization module takes a measured layer's output as it is: the responses are the layers' own "
                "outputs"
            )
        for site, (count, mean, std, non_finite) in table.items():
            if non_finite:
                notes.append(
                    f"{site.layer}: {int(non_finite):,} of {int(count + non_finite):,} values are NaN or infinite "
                    "and left out"
                )
            if not self.exact and abs(mean) > WELL_CONDITIONED * std:
                notes.append(
                    f"{site.layer}: |mean| is {abs(mean) / std if std else float('inf'):.3g} times the std, too much "
                    "for single-precision sums; exact=True (--exact) measures it right"
                )
            if unseen := self._finder.unseen.get(site):
                notes.append(f"{site.layer}: {unseen} calls were not normalized as the others were, and not measured")
        return notes


def response_row(
    layer: str,
    index: int,
    module: nn.Module,
    predicted_std: float,
    *,
    std: float = math.nan,
    mean: float = math.nan,
    count: int = 0,
    call: int = 1,
    non_finite: int = 0,
) -> dict[str, Any]:
    """One layer's row of a responses frame; without the measured values, that of a prediction alone."""
    return {
        "layer": layer,
        "index": index,
        "kind": layer_kind(module),
        "std": std,
        "mean": mean,
        "count": count,
        "predicted_std": predicted_std,
        "call": call,
        "stride": layer_stride(module),
        "non_finite": non_finite,
    }
