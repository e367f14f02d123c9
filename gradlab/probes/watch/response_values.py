"""The statistics of layers and activations, of what the passes of a step have shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gradlab.probes.finder import Site
from gradlab.probes.watch.activations import ActivationSums
from gradlab.probes.watch.piece import Piece
from gradlab.probes.watch.responses import Window, layer_of
from gradlab.probes.watch.shares import Found, IdleShare, LargestShare, MeanShare, RmsShare, StdShare
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

    def read(numbers: list[float]) -> Iterator[Found]:
        for place, (site, sums) in enumerate(sites):
            count, mean, std, non_finite, largest = numbers[5 * place : 5 * place + 5]
            layer = layer_of(site)
            if not count + non_finite:
                continue
            if sums.resolves(mean, std):
                yield layer, "response_std", StdShare(std, mean, count)
            elif count:
                unresolved(layer)
            yield layer, "response_mean", MeanShare(mean, count)
            yield layer, "response_max", LargestShare(largest)
            every = count + non_finite
            yield layer, "non_finite_fraction", MeanShare(non_finite / every, every)

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
    sizes = [numel[site] for site in rows]
    layers = [layer_of(site) for site in rows]

    def read(numbers: list[float]) -> Iterator[Found]:
        for layer, norm, size in zip(layers, numbers, sizes, strict=True):
            # Of an empty batch there is none.
            if size:
                yield layer, "response_grad_rms", RmsShare(norm / math.sqrt(size), size)

    return Piece(norms if scale is None else norms / scale.to(norms), read)


def activation_piece(window: Window, before: Window | None = None, *, by_unit: bool = False) -> Piece | None:
    """The share of exact zeros of every activation, of units that are 0 throughout, and of saturated values.

    Args:
        window: Of a step.
        before: Of the passes since the last record, whose `UnitActivity` tells which units were not 0 in these; None
            if units are looked at in the step alone.
        by_unit: Whether to tell which units are 0 and not only how many, since those of other ranks may be others.
    """
    counted = [(layer, sums) for layer, sums in window.activations.items() if sums.active and sums.elements]
    rated = [(layer, sums) for layer, sums in window.activations.items() if sums.rated and not sums.gates]
    earlier = {} if before is None else before.activations
    followed = [
        (layer, units) for layer, sums in counted if (units := _throughout(sums, earlier.get(layer))) is not None
    ]
    values: list[Tensor] = []
    if counted:
        values.append(_padded([sums.units() for _, sums in counted]).clamp(min=0).sum(1))
    if followed:
        idle = _padded([units for _, units in followed]) == 0
        values.append(idle.to(values[0]).flatten() if by_unit else idle.to(values[0]).sum(1))
    if rated:
        shares = [sums.saturated_share() for _, sums in rated]
        values.append(torch.stack([share.to(shares[0].device) for share in shares]))
    if not values:
        return None

    def read(numbers: list[float]) -> Iterator[Found]:
        number = iter(numbers)
        for layer, sums in counted:
            yield layer, "zero_fraction", MeanShare(1 - next(number) / sums.elements, sums.elements)
        for layer, units in followed:
            if by_unit:
                row = [bool(next(number)) for _ in range(idle.shape[1])]
                yield layer, "dead_units", IdleShare(tuple(row[: len(units)]))
            else:
                yield layer, "dead_units", next(number) / len(units)
        for layer, sums in rated:
            yield layer, "saturated_fraction", MeanShare(next(number), sums.rated)

    return Piece(torch.cat([value.to(values[0]) for value in values]), read)


def _padded(rows: list[Tensor]) -> Tensor:
    """Join vectors to one table: of hundreds of layers the small operations would take longer than the counts."""
    return torch.nn.utils.rnn.pad_sequence([row.to(rows[0]) for row in rows], batch_first=True, padding_value=-1.0)


def _throughout(sums: ActivationSums, before: ActivationSums | None) -> Tensor | None:
    """Return a number for each unit, 0 if the unit was 0 in the step and before; None where passes differ in units."""
    if sums.unit_count is None or before is None:
        return None if sums.unit_count is None else sums.units()
    return sums.units() + before.units().to(sums.active[0]) if before.unit_count == sums.unit_count else None
