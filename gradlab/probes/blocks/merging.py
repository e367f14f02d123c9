"""Merges the measurements of blocks on the ranks of a distributed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradlab.probes.blocks.sites import GradientSquares, Signal, Site
from gradlab.probes.ranks import joint_order
from gradlab.stats import Moments


def merged_signals(by_rank: Sequence[Mapping[Site, Signal]]) -> dict[Site, Signal]:
    """Return the measurement over the examples of all ranks, in their joint order of execution.

    Gradients are those of the mean of the R ranks' losses, ∂L_r/∂h / R on rank r, as in `merged_steps`.

    Args:
        by_rank: The measurement of each rank, as returned by `sendable`.
    """
    order = joint_order([list(signals) for signals in by_rank])
    ranks = len(by_rank)
    return {site: _merged([signals[site] for signals in by_rank if site in signals], ranks) for site in order}


def sendable(signals: Mapping[Site, Signal], order: Sequence[Site]) -> dict[Site, Signal]:
    """Return the measurement of this rank on the CPU, in order, without gradients that have not arrived yet."""
    return {site: _merged([signals[site]], 1) for site in order}


def _merged(signals: Sequence[Signal], ranks: int) -> Signal:
    return Signal(
        behind=_moments([signal.behind for signal in signals]),
        stream=_moments([signal.stream for signal in signals]),
        branch=_moments([signal.branch for signal in signals]),
        product=_sum([signal.product for signal in signals]),
        attends=any(signal.attends for signal in signals),
        tokens=_sum([signal.tokens for signal in signals]),
        behind_gradient=_gradients([signal.behind_gradient for signal in signals], ranks),
        branch_gradient=_gradients([signal.branch_gradient for signal in signals], ranks),
    )


def _moments(parts: Sequence[Moments | None]) -> Moments | None:
    total: Moments | None = None
    for part in parts:
        if part is not None:
            here = Moments(*(value.cpu() for value in (part.count, part.mean, part.m2, part.non_finite)))
            total = here if total is None else total.merge(here)
    return total


def _sum(parts: Sequence[Tensor | None]) -> Tensor | None:
    there = [part.cpu().double() for part in parts if part is not None]
    return torch.stack(there).sum(0) if there else None


def _gradients(parts: Sequence[GradientSquares], ranks: int) -> GradientSquares:
    found = [part.sums() for part in parts]
    squares = _sum([square for square, _ in found])
    lost = next((part.lost for part in parts if part.lost), None)
    return GradientSquares(lost, [] if squares is None else [squares / ranks**2], sum(numel for _, numel in found))
