"""The statistics of layers and activations, of what the passes of a step have shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gradlab.probes.finder import Site
from gradlab.probes.watch.activations import ActivationSums
from gradlab.probes.watch.piece import Piece, Value
from gradlab.probes.watch.responses import Sums, Window, layer_of
from gradlab.stats import l2_norms


def moment_piece(window: Window, unresolved: Callable[[str], None]) -> Piece | None:
    """Mean, std and largest absolute value of every response; the share that is not finite, where there is any.

    An empty tensor has none.

    Args:
        window: Of a step.
        unresolved: Called with layers whose std the square of their mean has taken the digits of.
    """
    sites = list(window.sums.items())
    if not sites:
        return None
    table = [_moments(sums) for _, sums in sites]
    values = torch.cat([row.to(table[0].device) for row in table])

    def read(numbers: list[float]) -> Iterator[Value]:
        for place, (site, sums) in enumerate(sites):
            count, mean, std, non_finite, largest = numbers[5 * place : 5 * place + 5]
            layer = layer_of(site)
            if not count + non_finite:
                continue
            if sums.moments.resolves(mean, std):
                yield layer, "response_std", std
            else:
                unresolved(layer)
            yield layer, "response_mean", mean
            yield layer, "response_max", largest
            if non_finite:
                yield layer, "non_finite_fraction", non_finite / (count + non_finite)

    return Piece(values, read)


def gradient_piece(window: Window, scale: Tensor | None) -> Piece | None:
    """The RMS of the loss's gradient with respect to every response, over all its elements.

    Args:
        window: Of a step.
        scale: What the loss was multiplied by.
    """
    rows: dict[Site, list[Tensor]] = {}
    numel: dict[Site, int] = {}
    lost = {site for watch, site in window.watches.items() if watch.lost}
    for watch, site in window.watches.items():
        found = watch.rows()
        watch.remove()
        if found is not None and site not in lost:
            rows.setdefault(site, []).append(found)
            numel[site] = numel.get(site, 0) + watch.numel
    # They know the window, which would otherwise wait for the garbage collector.
    window.watches.clear()
    if not rows:
        return None
    norms = l2_norms([torch.cat(parts) if len(parts) > 1 else parts[0] for parts in rows.values()])
    sizes = [math.sqrt(numel[site]) for site in rows]
    layers = [layer_of(site) for site in rows]

    def read(numbers: list[float]) -> Iterator[Value]:
        for layer, norm, size in zip(layers, numbers, sizes, strict=True):
            yield layer, "response_grad_rms", norm / size if size else math.nan

    return Piece(norms if scale is None else norms / scale.to(norms), read)


def activation_piece(window: Window) -> Piece | None:
    """The share of exact zeros of every activation, of units that are 0 throughout, and of saturated values."""
    names: list[tuple[str, str]] = []
    values: list[Tensor] = []
    for layer, sums in window.activations.items():
        for statistic, value in _shares(sums):
            names.append((layer, statistic))
            values.append(value)
    if not values:
        return None
    device = values[0].device

    def read(numbers: list[float]) -> Iterator[Value]:
        for (layer, statistic), number in zip(names, numbers, strict=True):
            yield layer, statistic, number

    return Piece(torch.stack([value.to(device) for value in values]), read)


def _moments(sums: Sums) -> Tensor:
    moments = sums.moments.moments()
    largest = [value.to(moments.mean) for value in sums.largest] or [torch.zeros_like(moments.mean)]
    return torch.stack([moments.count, moments.mean, moments.std, moments.non_finite, torch.stack(largest).amax()])


def _shares(sums: ActivationSums) -> Iterator[tuple[str, Tensor]]:
    if sums.active and sums.elements:
        active = [counts.to(sums.active[0].device) for counts in sums.active]
        yield "zero_fraction", 1 - torch.stack([counts.sum() for counts in active]).sum() / sums.elements
        if len({counts.shape for counts in active}) == 1:
            units = torch.stack(active).sum(0)
            yield "dead_units", (units == 0).to(units).mean()
    if sums.saturated and sums.rated:
        saturated = torch.stack([count.to(sums.saturated[0].device) for count in sums.saturated]).sum()
        wide = torch.float32 if saturated.device.type == "mps" else torch.float64
        yield "saturated_fraction", saturated.to(wide) / sums.rated
