"""Merges what the ranks of a distributed run have seen of attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.probes.ranks import Ranks, joint_order
from gradlab.probes.split_signals import Split
from gradlab.probes.tensor_layout import Layout, joined_parts_of, replicas, site_split


class Site(NamedTuple):
    """An attention of a pass.

    Attributes:
        layer: The name of the module that attends.
        call: The number of its attention within the pass, from 1.
    """

    layer: str
    call: int


def merged_rows(
    by_rank: Sequence[Mapping[Site, Tensor]], layouts: Sequence[Layout], ranks: Ranks
) -> dict[Site, Tensor]:
    """Return the sums over the rows of all ranks, in the order of execution that they tell together.

    Args:
        by_rank: What each rank has seen of each site, (H, 4): sums of entropies and of those of equal weights, the
            number of rows, and the largest logit.
        layouts: How each rank takes part in tensor parallelism.
        ranks: The ranks.

    Raises:
        GradlabError: If ranks that share a model have different attention, and it is not known of which parts.
    """
    tables: list[dict[Site, Tensor]] = []
    for group in replicas(layouts, ranks):
        found, own = [by_rank[place] for place in group], [layouts[place] for place in group]
        order = joint_order([list(sites) for sites in found])
        tables.append({site: joined_parts_of(site, found, own, _join(site, own), _same) for site in order})
    merged: dict[Site, Tensor] = {}
    for site in joint_order([list(sites) for sites in tables]):
        for rows in (sites[site] for sites in tables if site in sites):
            merged[site] = _added(merged[site], rows) if site in merged else rows
    return merged


def _join(site: Site, layouts: Sequence[Layout]) -> partial[Tensor]:
    return partial(_joined, site, site_split(site, layouts))


def _joined(site: Site, split: Split, one: Tensor, other: Tensor) -> Tensor:
    """Join two ranks' heads, or rows of the same heads."""
    if split == "unknown":
        raise GradlabError(
            f"{site.layer}: ranks that share the model have parts of its attention, and it is not known which: take "
            "one rank's with local=True"
        )
    return torch.cat([one, other]) if split == "channels" else _added(one, other)


def _same(one: Tensor, other: Tensor) -> bool:
    """Return whether rows are the same to the bit; NaN is the same as NaN."""
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)


def _added(one: Tensor, other: Tensor) -> Tensor:
    both = torch.stack([one, other])
    return torch.cat([both[..., :3].sum(0), both[..., 3:].amax(0)], 1)
