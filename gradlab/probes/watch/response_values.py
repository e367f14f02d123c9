"""The statistics of layers and activations, of what the passes of a step have shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gradlab.probes.finder import Site
from gradlab.probes.watch.piece import Piece, Value
from gradlab.probes.watch.responses import Window, layer_of
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
    table = [sums.numbers() for _, sums in sites]
    values = torch.cat([row.to(table[0].device) for row in table])

    def read(numbers: list[float]) -> Iterator[Value]:
        for place, (site, sums) in enumerate(sites):
            count, mean, std, non_finite, largest = numbers[5 * place : 5 * place + 5]
            layer = layer_of(site)
            if not count + non_finite:
                continue
            if sums.resolves(mean, std):
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
    counted = [(layer, sums) for layer, sums in window.activations.items() if sums.active and sums.elements]
    rated = [(layer, sums) for layer, sums in window.activations.items() if sums.saturated and sums.rated]
    values: list[Tensor] = []
    if counted:
        device = counted[0][1].active[0].device
        # One padded table: of hundreds of layers the small operations would take longer than the counts.
        units = [sums.units().to(device) for _, sums in counted]
        table = torch.nn.utils.rnn.pad_sequence(units, batch_first=True, padding_value=-1.0)
        values += [table.clamp(min=0).sum(1), (table == 0).to(table).sum(1)]
    if rated:
        shares = [sums.saturated_share() for _, sums in rated]
        values.append(torch.stack([share.to(shares[0].device) for share in shares]))
    if not values:
        return None

    def read(numbers: list[float]) -> Iterator[Value]:
        count = len(counted)
        for (layer, sums), active, zero in zip(counted, numbers, numbers[count:], strict=False):
            yield layer, "zero_fraction", 1 - active / sums.elements
            if sums.unit_count is not None:
                yield layer, "dead_units", zero / sums.unit_count
        for (layer, _), share in zip(rated, numbers[2 * count :], strict=True):
            yield layer, "saturated_fraction", share

    return Piece(torch.cat([value.to(values[0]) for value in values]), read)
