"""The two claims of He et al. 2015 §4.2 on layer responses, compared with a measurement.

"ResNets have generally smaller responses than their plain counterparts. [...] We also notice that the deeper
ResNet has smaller magnitudes of responses [...]. When there are more layers, an individual layer of ResNets
tends to modify the signal less."
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

import numpy as np
import pandas as pd

from gradlab.results.comparable import is_candidate, not_compared
from gradlab.results.finding import Finding
from gradlab.results.intervals import and_p, told_by
from gradlab.results.label import counterpart_key, description
from gradlab.results.training.recipes import without_seed
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, holm, sign_test

EQUAL = 0.01
"""The distance from a std of 1 within which a response counts as normalized."""

LEAST_LAYERS = 4
"""The number of layers from which quartiles are given."""

AT_INITIALIZATION = Finding(
    "With batch statistics every normalized response has a std of 1 at initialization (γ = 1, β = 0), whatever the "
    "network: the paper's claims are about trained networks.",
    f"Weights as initialized, batch statistics, and |std − 1| < {EQUAL} in at least half of the layers.",
)

_SMALLER_THAN_PLAIN = (
    "He et al. 2015, §4.2: “ResNets have generally smaller responses than their plain counterparts.” Layers of one "
    "place, of nets of equal depth and recipe."
)
_SMALLER_WITH_DEPTH = (
    "He et al. 2015, §4.2: “the deeper ResNet has smaller magnitudes of responses.” Logarithms of the layers' stds, of "
    "nets of one recipe; in one direction if no two depths differ significantly in the other."
)
_ONE_TRAINING = "layers taken as independent; another training may differ by more"

_STAGE = re.compile(r"(?:^|\.)(layer\d+)\.")


@dataclass(frozen=True)
class _Network:
    """A network that can be compared with others of its kind and recipe.

    Attributes:
        stds: The stds by layer, in order of execution, or by number if layers have no names.
    """

    name: str
    kind: str
    depth: int
    counterpart: Hashable
    series: str
    recipe: Hashable
    stds: pd.Series

    @property
    def logarithm(self) -> Estimate:
        """The mean logarithm of the stds, over layers whose response varies."""
        return Estimate.of(np.log(self.stds[self.stds > 0]))

    def __str__(self) -> str:
        return _with_quartiles(self.stds)


def _with_quartiles(stds: pd.Series) -> str:
    """The median, with quartiles if there are enough layers."""
    if len(stds) < LEAST_LAYERS:
        return f"{stds.median():.3f}"
    low, high = np.percentile(stds, [25, 75])
    return f"{stds.median():.3f} (quartiles {low:.3f} to {high:.3f})"


@dataclass(frozen=True)
class _Claim:
    """A comparison, with the sentence for its verdict, its rule, and the depth of its deepest network."""

    depth: int
    comparison: Comparison
    sentence: Callable[[Verdict], str]
    source: str
    test: str


def findings(frame: pd.DataFrame, column: str, facts: Sequence[dict[str, Any]]) -> list[Finding]:
    """The findings on the paper's two claims, in sentences with numbers.

    Only networks of one recipe, measured with batch normalization in one mode, are compared; those near chance are not,
    since they are probably not the networks that their names say.

    Args:
        frame: A responses frame.
        column: The column, `std` or `predicted_std`.
        facts: The facts on each network of the frame: network, description, recipe (None if unknown), bn and
            near_chance.

    Returns:
        Sentences with their rules; an empty list if there is nothing to compare.
    """
    initial: dict[str, pd.Series] = {}
    networks, known = [], []
    for fact in ({"recipe": None, **fact} for fact in facts):
        rows = frame[frame["network"] == fact["network"]]
        stds = rows.set_index("layer")[column] if "layer" in rows else rows[column].reset_index(drop=True)
        stds = stds[~stds.index.duplicated()].dropna()
        if fact.get("bn") == "batch" and not fact.get("trained", True) and (abs(stds - 1) < EQUAL).mean() >= 0.5:
            initial[fact["network"]] = stds
        elif is_candidate(fact) and not stds.empty:
            known.append(fact)
            if fact["recipe"] is not None and not fact.get("near_chance"):
                networks.append(_network(fact, stds))
    pairs: list[_Claim] = []
    trends: list[_Claim] = []
    for group in _groups(networks, lambda n: (n.counterpart, n.recipe)):
        pairs += _plain_against_residual(group)
        for series in _groups([n for n in group if n.kind == "residual"], lambda n: n.series):
            trends += _by_depth(series)
    # The deepest pair and the trend answer the main question.
    pairs.sort(key=lambda claim: -claim.depth)
    told = _findings([*pairs[:1], *trends, *pairs[1:]])
    return [*told, *_at_initialization(initial), *not_compared(known, "responses")]


def one_network(network: str, stds: pd.Series) -> list[Finding]:
    """A finding on a network that cannot be compared with another.

    Args:
        network: The label of the network.
        stds: The stds by layer.
    """
    if stds.empty:
        return []
    if len(stds) == 1:
        sentence = f"{network}: the std of the responses of {stds.index[0]} is {stds.iloc[0]:.3f}"
    else:
        sentence = f"{network}: the median std of {len(stds)} layers' responses is {_with_quartiles(stds)}"
        sentence += (
            f", the largest {stds.max():.3f} at {stds.idxmax()} and the smallest {stds.min():.3f} at {stds.idxmin()}"
        )
    return [Finding(f"{sentence}.", "Reported without a verdict for a single network.")]


def _findings(made: Sequence[_Claim]) -> list[Finding]:
    """The findings of comparisons that share one rate of false alarms."""
    together = [claim.comparison for claim in made]
    return [
        Finding(
            claim.sentence(verdict),
            f"{claim.source} {told_by(claim.test, together)}{and_p(claim.comparison, verdict)}",
        )
        for claim, verdict in zip(made, holm(together), strict=True)
    ]


def _at_initialization(networks: Mapping[str, pd.Series]) -> list[Finding]:
    """The finding that normalization alone determines the responses, with the layers whose γ is 0."""
    found = []
    if any(stds.min() >= EQUAL for stds in networks.values()):
        found.append(AT_INITIALIZATION)
    for network, stds in networks.items():
        if zero := int((stds < EQUAL).sum()):
            sentence = (
                f"{network}: with batch statistics every normalized response has the std γ at initialization, whatever "
                f"the network: 0 in the {zero} of {len(stds)} layers that begin with γ = 0, and 1 elsewhere. The "
                "paper's claims are about trained networks."
            )
            found.append(Finding(sentence, AT_INITIALIZATION.rule))
    return found


def _network(fact: dict[str, Any], stds: pd.Series) -> _Network:
    known = description(fact)
    return _Network(
        name=fact["network"],
        kind=known["kind"],
        depth=known["depth"],
        counterpart=counterpart_key(fact, apart=("shortcut",)),
        series=known["series"],
        recipe=(without_seed(fact["recipe"]), fact.get("bn")),
        stds=stds,
    )


def _groups(networks: Iterable[_Network], key: Callable[[_Network], Hashable]) -> list[list[_Network]]:
    """The networks grouped by a key, in their order."""
    ordered = sorted(networks, key=lambda network: repr(key(network)))
    return [list(group) for _, group in groupby(ordered, key)]


def _plain_against_residual(group: list[_Network]) -> list[_Claim]:
    pairs = [(p, r) for p in group for r in group if (p.kind, r.kind) == ("plain", "residual") and p.depth == r.depth]
    made = []
    for plain, residual in pairs:
        places = plain.stds.index.intersection(residual.stds.index, sort=False)
        alone = sum(r.depth == residual.depth for _, r in pairs) == 1

        def sentence(
            verdict: Verdict,
            plain: _Network = plain,
            residual: _Network = residual,
            places: pd.Index = places,
            alone: bool = alone,
        ) -> str:
            return _beside_plain(verdict, plain, residual, places, "" if alone else f"({residual.name}) ")

        comparison = sign_test(residual.stds[places], plain.stds[places])
        made.append(_Claim(plain.depth, comparison, sentence, _SMALLER_THAN_PLAIN, f"the sign test, {_ONE_TRAINING}"))
    return made


def _beside_plain(verdict: Verdict, plain: _Network, residual: _Network, places: pd.Index, which: str) -> str:
    start = f"At {plain.depth} layers the residual net {which}has"
    medians = f"median std {residual} against {plain}"
    if not len(places):
        return f"{start} no layer of a plain net's name, so no comparison is possible: {medians}."
    one, other = residual.stds[places], plain.stds[places]
    words = {
        Verdict.NOTHING: "too few layers to compare its responses with the plain net's",
        Verdict.ALIKE: "responses that are not significantly different from the plain net's",
    }.get(verdict, f"{verdict} responses than the plain net")
    # Layers whose response in the plain net is constant have no ratio.
    ratios = (one / other)[other > 0]
    ratio = f", a median ratio of {ratios.median():.2f}" if len(ratios) else ""
    more = "larger" if verdict is Verdict.LARGER else "smaller"
    count = int(((one > other) if more == "larger" else (one < other)).sum())
    return f"{start} {words}: {more} at {count} of {len(places)} layers{ratio}{_by_stage(ratios)}; {medians}."


def _by_stage(ratios: pd.Series) -> str:
    """The median ratio of each stage, if layers are named by stages."""
    stages = [match[1] if (match := _STAGE.search(str(name))) else "" for name in ratios.index]
    medians = ratios.groupby(stages, sort=False).median().drop(labels="", errors="ignore")
    if len(medians) < 2:
        return ""
    return " (by stage " + ", ".join(f"{ratio:.2f} in {stage}" for stage, ratio in medians.items()) + ")"


def _by_depth(networks: list[_Network]) -> list[_Claim]:
    """The deepest network compared with the shallowest, if no two depths differ in the other direction."""
    ordered = sorted(networks, key=lambda network: network.depth)
    if len({network.depth for network in ordered}) < 2:
        return []
    ends = difference(ordered[-1].logarithm, ordered[0].logarithm)

    def sentence(verdict: Verdict) -> str:
        pairs = [(a, b) for a, b in combinations(ordered, 2) if a.depth < b.depth]
        steps = holm([difference(b.logarithm, a.logarithm) for a, b in pairs])
        told = {step for step in (*steps, verdict) if step.speaks}
        if len(told) > 1:
            words = "Responses of residual nets do not change with depth in one direction"
        elif verdict.speaks:
            words = f"Deeper residual nets have {verdict} responses"
        elif verdict is Verdict.NOTHING:
            words = "There are too few layers to compare residual nets of different depths"
        else:
            words = "Responses of residual nets of different depths are not significantly different"
        return f"{words}: median std {', '.join(f'{network} at {network.depth}' for network in ordered)} layers."

    return [_Claim(ordered[-1].depth, ends, sentence, _SMALLER_WITH_DEPTH, f"Welch’s t, {_ONE_TRAINING}")]
