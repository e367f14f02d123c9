"""The gradients of responses at one step: as they arrive, and as they travel between ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.probes.finder import ResponseFinder, Site
from gradlab.probes.forward_watch import GraphWatch, Watch
from gradlab.probes.ranks import Ranks, check_same_steps, refuse_stages
from gradlab.probes.tensor_layout import Layout, joined_parts_of, replicas


@dataclass
class WatchedStep:
    """One measured step: the sites that ran, with or without a graph, and their gradients.

    Attributes:
        step: The number of the step.
        ran: Whether the value of each site was part of a graph.
        watches: The watches that received gradients.
        lost: The reason why the gradient of a site is not known.
        numel: The number of elements of the gradients of each site, over all backward passes of the step.
        norms: The norms for the sites in the order of `numel`, with the loss scale of that step divided out.
    """

    step: int
    ran: dict[Site, bool] = field(default_factory=dict)
    watches: dict[Watch | GraphWatch, Site] = field(default_factory=dict)
    lost: dict[Site, str] = field(default_factory=dict)
    numel: dict[Site, int] = field(default_factory=dict)
    norms: Tensor | None = None


@dataclass(frozen=True)
class SiteGradients:
    """The gradients of one step, by sites.

    Attributes:
        step: The number of the step.
        ran: Whether the value of each site was part of a graph.
        lost: The reason why the gradient of a site is not known.
        numel: The number of elements of each site's gradients.
        norms: The norms of these gradients.
    """

    step: int
    ran: dict[Site, bool]
    lost: dict[Site, str]
    numel: dict[Site, int]
    norms: dict[Site, float]

    def row(self, site: Site) -> dict[str, Any]:
        """Return the columns of a frame that hold the gradient of one site, or the reason why there is none."""
        norm, numel = self.norms.get(site, math.nan), self.numel.get(site)
        return {
            "response_grad_norm": norm,
            "response_grad_rms": norm / math.sqrt(numel) if numel else math.nan,
            "response_numel": numel,
            "step": self.step,
            "call": site.call,
            "block": site.block,
            "non_finite": site in self.norms and not math.isfinite(norm),
            "absent": None if site in self.norms else self.lost.get(site) or absence(self.ran.get(site)),
        }


@dataclass(frozen=True)
class RankGradients:
    """What one rank has measured.

    Attributes:
        steps: The steps.
        sites: The sites in order of execution.
        targets: The name of the target of each layer that ran.
        unseen: The number of calls of a site that were not normalized although others were.
    """

    steps: list[SiteGradients]
    sites: list[Site]
    targets: dict[str, str]
    unseen: dict[Site, int]


def merged_steps(by_rank: Sequence[RankGradients]) -> list[SiteGradients]:
    """Return the gradients with respect to the responses of all ranks together, step by step.

    The loss is the mean of the ranks' losses L_r, whose gradient data parallelism gives the parameters. So the
    gradient with respect to responses of rank r is ∂L_r/∂h / R for R ranks, and the norm over all ranks' elements is
    √(Σ_r ‖∂L_r/∂h‖²) / R. If each loss is a mean over equally many examples, this is the gradient of the mean over
    the examples of all ranks.

    Raises:
        GradlabError: If the ranks have measured different steps, or are stages of a pipeline.
    """
    check_same_steps([[step.step for step in rank.steps] for rank in by_rank])
    refuse_stages([{site for step in rank.steps for site in step.norms} for rank in by_rank])
    return [_merged(steps) for steps in zip(*(rank.steps for rank in by_rank), strict=True)]


def whole_gradients(by_rank: Sequence[RankGradients], layouts: Sequence[Layout], ranks: Ranks) -> list[RankGradients]:
    """Join what ranks have measured that share the layers of one model by tensor parallelism, one for each model.

    Raises:
        GradlabError: If the ranks have measured different steps.
    """
    check_same_steps([[step.step for step in rank.steps] for rank in by_rank])
    joined = []
    for group in replicas(layouts, ranks):
        found, own = [by_rank[place] for place in group], [layouts[place] for place in group]
        steps = [_whole(steps, own) for steps in zip(*(rank.steps for rank in found), strict=True)]
        joined.append(replace(found[0], steps=steps))
    return joined


def _whole(steps: Sequence[SiteGradients], layouts: Sequence[Layout]) -> SiteGradients:
    """Return one step of the ranks that share a model."""
    tables = [{site: (step.numel[site], norm) for site, norm in step.norms.items()} for step in steps]
    sites = dict.fromkeys(site for table in tables for site in table)
    found = {site: joined_parts_of(site, tables, layouts, _join, _same) for site in sites}
    numel = {site: count for site, (count, _) in found.items()}
    return replace(steps[0], numel=numel, norms={site: norm for site, (_, norm) in found.items()})


def _join(one: tuple[int, float], other: tuple[int, float]) -> tuple[int, float]:
    return one[0] + other[0], math.hypot(one[1], other[1])


def _same(one: tuple[int, float], other: tuple[int, float]) -> bool:
    """Return whether norms are equal but for the order of sums."""
    return one[0] == other[0] and (math.isclose(one[1], other[1], rel_tol=1e-6) or one[1] != one[1])


def _merged(steps: Sequence[SiteGradients]) -> SiteGradients:
    """Return one step of all ranks."""
    ran = {site: any(step.ran.get(site, False) for step in steps) for step in steps for site in step.ran}
    lost = {site: reason for step in steps for site, reason in step.lost.items()}
    there = dict.fromkeys(site for step in steps for site in step.norms if site not in lost)
    numel = {site: sum(step.numel.get(site, 0) for step in steps) for site in there}
    norms = {site: math.hypot(*(step.norms.get(site, 0.0) for step in steps)) / len(steps) for site in there}
    return SiteGradients(steps[0].step, ran, lost, numel, norms)


def unseen_notes(by_rank: Sequence[RankGradients]) -> list[str]:
    """Write a sentence on each site with calls that were not normalized as its others were."""
    unseen = Counter[Site]()
    for rank in by_rank:
        unseen.update(rank.unseen)
    return [
        f"{site.layer}: {count} calls were not normalized as the others were, and not measured"
        for site, count in unseen.items()
    ]


def absence(graph: bool | None) -> str:
    """Return why a site has no gradient, given whether it ran with a graph, without one, or not at all."""
    return {None: "not run", False: "no graph", True: "not reached"}[graph]


def refuse_recomputed(steps: Sequence[WatchedStep], finder: ResponseFinder) -> None:
    """Raise an error for layers whose gradients only arrive at tensors recomputed in a backward pass.

    Args:
        steps: The steps so far.
        finder: What has found the responses.

    Raises:
        GradlabError: If there are any.
    """
    without = {site.layer: None for step in steps for site, graph in step.ran.items() if not graph and not site.block}
    again = [
        layer
        for layer in without
        for target in [finder.places[layer]]
        if finder.recomputed & {target.name, *(row.module for row in target.rows)}
    ]
    if again:
        raise GradlabError(
            f"{', '.join(again[:3])}{', …' if len(again) > 3 else ''}: reentrant activation checkpointing leaves "
            "the response without a graph; call checkpoint with use_reentrant=False, or choose others by layers="
        )
