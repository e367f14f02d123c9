"""Merges the measurements of blocks on the ranks of a distributed run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.probes.blocks.sites import GradientSquares, Signal, Site
from gradlab.probes.ranks import Ranks, joint_order, refuse_stages
from gradlab.probes.tensor_layout import Layout, joined_parts_of, replicas, site_split
from gradlab.stats import Moments


def merged_signals(
    by_rank: Sequence[Mapping[Site, Signal]], layouts: Sequence[Layout], ranks: Ranks
) -> dict[Site, Signal]:
    """Return the measurement over the examples of all ranks, in their joint order of execution.

    Gradients are those of the mean of the R ranks' losses, ∂L_r/∂h / R on rank r, as in `merged_steps`.

    Args:
        by_rank: The measurement of each rank, as returned by `sendable`.
        layouts: How each rank takes part in tensor parallelism. Ranks that share a model have one loss together.
        ranks: The ranks.

    Raises:
        GradlabError: If it is not known what such ranks have apart, or if ranks are stages of a pipeline.
    """
    tables: list[dict[Site, Signal]] = []
    for group in replicas(layouts, ranks):
        found, own = [by_rank[place] for place in group], [layouts[place] for place in group]
        order = joint_order([list(signals) for signals in found])
        tables.append({site: joined_parts_of(site, found, own, _join(site, own), _same) for site in order})
    refuse_stages([[site for site in table if _has_gradient(table[site])] for table in tables])
    order = joint_order([list(signals) for signals in tables])
    return {site: _merged([signals[site] for signals in tables if site in signals], len(tables)) for site in order}


def sendable(signals: Mapping[Site, Signal], order: Sequence[Site]) -> dict[Site, Signal]:
    """Return the measurement of this rank on the CPU, in order, without gradients that have not arrived yet."""
    return {site: _merged([signals[site]], 1) for site in order}


def _merged(
    signals: Sequence[Signal], ranks: int, join: Callable[[Moments, Moments], Moments] = Moments.merge
) -> Signal:
    return Signal(
        behind=_moments([signal.behind for signal in signals], join),
        stream=_moments([signal.stream for signal in signals], join),
        branch=_moments([signal.branch for signal in signals], join),
        product=_sum([signal.product for signal in signals]),
        attends=any(signal.attends for signal in signals),
        tokens=_sum([signal.tokens for signal in signals]),
        behind_gradient=_gradients([signal.behind_gradient for signal in signals], ranks),
        branch_gradient=_gradients([signal.branch_gradient for signal in signals], ranks),
    )


def _join(site: Site, layouts: Sequence[Layout]) -> Callable[[Signal, Signal], Signal]:
    """Return what joins the parts that two ranks have of one block's signal."""
    split = site_split(site, layouts)

    def join(one: Signal, other: Signal) -> Signal:
        if split == "unknown" or one.tokens is not None:
            apart = "parts of it" if one.tokens is None else "parts of its tokens, which tokens=True compares"
            raise GradlabError(
                f"{site.block or 'the model'}: ranks that share the model have {apart}, and results do not join these: "
                f"{'' if one.tokens is None else 'leave tokens out, or '}take one rank's with local=True"
            )
        return _merged([one, other], 1, _side_by_side if split == "channels" else Moments.merge)

    return join


def _side_by_side(one: Moments, other: Moments) -> Moments:
    """Return the moments of the channels of both, of which they may have different numbers."""
    return Moments(*(torch.cat(pair) for pair in zip(_values(one), _values(other), strict=True)))


def _has_gradient(signal: Signal) -> bool:
    return any(gradient.sums()[0] is not None for gradient in (signal.behind_gradient, signal.branch_gradient))


def _same(one: Signal, other: Signal) -> bool:
    """Return whether moments are the same to the bit, and gradients but for the order of sums."""
    for name in ("behind", "stream", "branch"):
        first, second = getattr(one, name), getattr(other, name)
        if (first is None) != (second is None):
            return False
        if first is not None and repr([*map(Tensor.tolist, _values(first))]) != repr(
            [*map(Tensor.tolist, _values(second))]
        ):
            return False
    for name in ("behind_gradient", "branch_gradient"):
        (square, numel), (its, number) = (getattr(signal, name).sums() for signal in (one, other))
        if numel != number or (square is None) != (its is None):
            return False
        if square is not None and its is not None and not math.isclose(square.item(), its.item(), rel_tol=1e-6):
            return False
    return True


def _values(moments: Moments) -> tuple[Tensor, ...]:
    return tuple(value.cpu() for value in (moments.count, moments.mean, moments.m2, moments.non_finite))


def _moments(parts: Sequence[Moments | None], join: Callable[[Moments, Moments], Moments]) -> Moments | None:
    total: Moments | None = None
    for part in parts:
        if part is not None:
            here = Moments(*_values(part))
            total = here if total is None else join(total, here)
    return total


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part.cpu().double() for part in parts if part is not None]
    return torch.stack(there).sum(0) if there else None


def _gradients(parts: Sequence[GradientSquares], ranks: int) -> GradientSquares:
    found = [part.sums() for part in parts]
    squares = _sum([square for square, _ in found])
    lost = next((part.lost for part in parts if part.lost), None)
    return GradientSquares(lost, [] if squares is None else [squares / ranks**2], sum(numel for _, numel in found))
