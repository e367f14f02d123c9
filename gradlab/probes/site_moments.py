"""The moments of a site's responses, as they travel between ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest

from gradlab.errors import GradlabError
from gradlab.probes.finder import ResponseFinder, Site
from gradlab.probes.ranks import Ranks, joint_order
from gradlab.probes.tensor_layout import Layout, joined_parts_of, replicas
from gradlab.stats.fast_moments import resolves
from gradlab.stats.moments import WELL_CONDITIONED, Moments, joined_parts


@dataclass(frozen=True)
class SiteMoments:
    """What one rank, or several together, have measured of a site.

    Attributes:
        parts: The moments of the responses, or of their real and imaginary parts, on the CPU.
        precision: The relative rounding error of the coarsest sums; 0 for exact ones.
        target: The name of the target to which the site belongs.
        norm: The name of the normalization whose output the response is; empty for a function, None without any.
        unseen: The number of calls that were not normalized although others were.
    """

    parts: list[Moments]
    precision: float
    target: str
    norm: str | None
    unseen: int

    @property
    def moments(self) -> Moments:
        """The moments of all values."""
        return joined_parts(self.parts)

    @cached_property
    def values(self) -> list[float]:
        """The count, mean, std and non-finite count of all values."""
        moments = self.moments
        return [moments.count.item(), moments.mean.item(), moments.std.item(), moments.non_finite.item()]

    def resolves(self, mean: float, std: float) -> bool:
        """Return whether the std is accurate; see `gradlab.stats.fast_moments.resolves`."""
        return not self.precision or resolves(self.precision, mean, std)

    def merge(self, other: SiteMoments) -> SiteMoments:
        """Return what was measured of the site on both ranks."""
        pairs = zip_longest(self.parts, other.parts)
        return SiteMoments(
            [b if a is None else a if b is None else a.merge(b) for a, b in pairs],
            max(self.precision, other.precision),
            self.target,
            self.norm,
            self.unseen + other.unseen,
        )


def merged_sites(by_rank: Sequence[Mapping[Site, SiteMoments]]) -> dict[Site, SiteMoments]:
    """Merge what the ranks have measured, in the order of execution that they tell together.

    Raises:
        GradlabError: If a layer's response was normalized on one rank and not on another.
    """
    merged: dict[Site, SiteMoments] = {}
    for site in joint_order([list(sites) for sites in by_rank]):
        for found in (sites[site] for sites in by_rank if site in sites):
            if site in merged and merged[site].norm != found.norm:
                raise GradlabError(
                    f"{site.layer}: its output goes into {_named(merged[site].norm)} on one rank and into "
                    f"{_named(found.norm)} on another, so that they are not one response: measure it with local=True"
                )
            merged[site] = merged[site].merge(found) if site in merged else found
    return merged


def whole_sites(
    by_rank: Sequence[Mapping[Site, SiteMoments]], layouts: Sequence[Layout], ranks: Ranks
) -> list[dict[Site, SiteMoments]]:
    """Join what ranks have measured that share the layers of one model by tensor parallelism, a table for each model.

    Parts of a response are merged; of responses that all of these ranks have, one rank's count.
    """
    tables: list[dict[Site, SiteMoments]] = []
    for group in replicas(layouts, ranks):
        found, own = [by_rank[place] for place in group], [layouts[place] for place in group]
        order = joint_order([list(sites) for sites in found])
        tables.append({site: joined_parts_of(site, found, own, _join, _same) for site in order})
    return tables


def _join(one: SiteMoments, other: SiteMoments) -> SiteMoments:
    return replace(one.merge(other), unseen=one.unseen)


def _same(one: SiteMoments, other: SiteMoments) -> bool:
    """Return whether moments are the same to the bit; NaN is the same as NaN."""
    values = [
        [[v.tolist() for v in (m.count, m.mean, m.m2, m.non_finite)] for m in found.parts] for found in (one, other)
    ]
    return repr(values[0]) == repr(values[1])


def _named(norm: str | None) -> str:
    return "no normalization" if norm is None else norm or "a function that normalizes"


def take_in(finder: ResponseFinder, targets: Iterable[tuple[str, str]]) -> None:
    """Let a finder know of the layers that ran on other ranks only.

    Args:
        finder: The finder of this rank.
        targets: The names of layers and of their targets.
    """
    for layer, target in targets:
        finder.places.setdefault(layer, finder.targets.chosen[target])
        finder.called.add(target)


def site_notes(layer: str, found: SiteMoments, exact: bool) -> list[str]:
    """Return what is to be said of the values of a site.

    Args:
        layer: The name of its layer.
        found: What was measured of it.
        exact: Whether centred moments were used, which are accurate whatever the mean.
    """
    notes = []
    count, mean, std, non_finite = found.values
    if non_finite:
        notes.append(
            f"{layer}: {int(non_finite):,} of {int(count + non_finite):,} values are NaN or infinite and left out"
        )
    if not exact and abs(mean) > WELL_CONDITIONED * std:
        lost = "too much for sums of squares" if found.resolves(mean, std) else "so its std is not given"
        notes.append(
            f"{layer}: |mean| is {abs(mean) / std if std else math.inf:.3g} times the std, {lost}; "
            "exact=True (--exact) measures it accurately"
        )
    if found.unseen:
        notes.append(f"{layer}: {found.unseen} calls were not normalized as the others were, and not measured")
    return notes
