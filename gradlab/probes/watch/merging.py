"""Joins what the ranks of a distributed run have found at one step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gradlab.probes.ranks import Ranks, are_stages, joint_order
from gradlab.probes.split_signals import Split
from gradlab.probes.tensor_layout import Layout, replicas, site_split
from gradlab.probes.watch.shares import Found, Share, StdShare, Value, is_said
from gradlab.results.grouping import some

_SAME = 1e-6
"""The largest relative difference between ranks of what is the same on all of them, such as averaged gradients."""

Key = tuple[str, str]
"""A layer and a statistic."""

Table = Mapping[Key, float | Share]
"""What some ranks have found."""


@dataclass
class Unjoined:
    """What ranks have found that makes no joint value, and is left out.

    Attributes:
        numbers: Names of statistics that should be the same on all ranks, and are not.
        parts: Layers of which ranks that share a model have different values.
        stages: Layers with gradients on ranks that are stages of a pipeline, whose loss is no mean of theirs.
    """

    numbers: dict[str, None] = field(default_factory=dict)
    parts: dict[str, None] = field(default_factory=dict)
    stages: dict[str, None] = field(default_factory=dict)

    def notes(self) -> list[str]:
        """Return a sentence on each of these that is not empty."""
        notes = []
        if self.numbers:
            notes.append(
                f"{some(self.numbers)}: not the same on all ranks, as gradients are that DistributedDataParallel has "
                "averaged, and not recorded"
            )
        if self.parts:
            notes.append(
                f"{some(self.parts)}: ranks that share the model have different values, and it is not known of which "
                "parts; not recorded"
            )
        if self.stages:
            notes.append(
                f"{some(self.stages)}: no two ranks have run the same layers, as stages of a pipeline, so that "
                "gradients by responses are not those of a mean of the ranks' losses; not recorded"
            )
        return notes


def joined_values(
    by_rank: Sequence[Sequence[Found]], layouts: Sequence[Layout], ranks: Ranks, unjoined: Unjoined
) -> list[Value]:
    """Return the values over the examples of all ranks.

    Args:
        by_rank: What each rank has found.
        layouts: How each takes part in tensor parallelism, with layers as sites.
        ranks: The ranks.
        unjoined: Gets the names of what is left out.
    """
    tables: list[Table] = [{(layer, name): share for layer, name, share in found} for found in by_rank]
    groups = replicas(layouts, ranks)
    models = [_of_one_model([tables[p] for p in group], [layouts[p] for p in group], unjoined) for group in groups]
    values = []
    stages = are_stages([[key for key in table if key[1] == "response_grad_rms"] for table in models])
    for key in joint_order([list(table) for table in models]):
        if stages and key[1] == "response_grad_rms":
            unjoined.stages.setdefault(key[0])
            continue
        share = _joined(key, models, "samples", unjoined)
        if share is not None:
            values.append((*key, share if isinstance(share, float) else share.of_mean_loss(len(models))))
    return [value for value in values if is_said(value)]


def _of_one_model(tables: Sequence[Table], layouts: Sequence[Layout], unjoined: Unjoined) -> Table:
    """Join what ranks have found that share the layers of one model, and its examples."""
    joint: dict[Key, float | Share] = {}
    for key in joint_order([list(table) for table in tables]):
        split = site_split(key[0], layouts)
        there = [table[key] for table in tables if key in table]
        share: float | Share | None = there[0]
        if len(tables) > 1 and (split or isinstance(there[0], float)):
            share = _joined(key, tables, split, unjoined)
        elif not all(_alike(there[0], other) for other in there):
            unjoined.parts.setdefault(key[0])
            share = None
        if share is not None:
            joint[key] = share
    return joint


def _joined(key: Key, tables: Sequence[Table], split: Split, unjoined: Unjoined) -> float | Share | None:
    """Join what several have found that each have values of their own; a number is the same on all of them."""
    found = [table[key] for table in tables if key in table]
    first = found[0]
    if isinstance(first, float):
        if all(_same(first, other) for other in found):
            return first
        unjoined.numbers.setdefault(key[1])
        return None
    if isinstance(first, StdShare) and len(found) < sum((key[0], "response_mean") in table for table in tables):
        # The mean has taken the digits of another rank's std.
        return None
    joint: Share | None = first.joined(found, split)  # type: ignore[arg-type]
    if joint is None:
        unjoined.parts.setdefault(key[0])
    return joint


def _alike(one: float | Share, other: float | Share) -> bool:
    """Return whether two ranks have found the same, so that it is that of both together as well."""
    if isinstance(one, StdShare) and isinstance(other, StdShare) and not _same(one.mean, other.mean):
        return False
    return _same(*(each if isinstance(each, float) else each.value for each in (one, other)))


def _same(one: float, other: object) -> bool:
    if not isinstance(other, float) or math.isnan(one) or math.isnan(other):
        return isinstance(other, float) and math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) <= _SAME * max(abs(one), abs(other))
