"""Whether deeper nets have higher training errors: the degradation problem of He et al. 2015, §1 and §4.2, in runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from typing import Any

from gradlab.results.degradation.nets import FEWEST_SEEDS, LEAST_STEPS, SEED_SPREAD, Errors, Net, compared, nets_of
from gradlab.results.finding import Finding
from gradlab.results.grouping import counted, listed
from gradlab.results.intervals import and_p, told_by
from gradlab.stats.verdict import Comparison, Estimate, Verdict, holm, trend_of_known, trend_of_means

_DEGRADATION = (
    "He et al. 2015, §1 and §4.2: a deeper plain net has the higher training error, a deeper residual net the lower. "
    "The slope of the error over depth, all depths of one family and recipe weighted by their errors, or equally where "
    "each has at least three seeds; in one direction if no two depths differ significantly in the other direction."
)
_PAIR = "He et al. 2015, §4.2: residual nets train better than plain nets of equal depth. Of one recipe."
_VARIANT = (
    "Residual nets with other shortcuts, scales or units against the original of equal depth and recipe, as He et al. "
    "2016, Tables 1 and 2, compare test errors; without a known number of test images, training errors."
)
_SPREAD = f"and a seed taken to move the error by {SEED_SPREAD:.1%} (one standard deviation)"
_TRAINING_COUNTS = f"the normal approximation to counts, the images of the last epoch taken as independent, {_SPREAD}"
_TEST_COUNTS = f"the normal approximation to counts, the test images taken as independent, {_SPREAD}"
_SEEDS = "Welch's test of means over seeds"


@dataclass(frozen=True)
class _Claim:
    """A comparison, and the sentence for its verdict."""

    nets: tuple[Net, ...]
    comparison: Comparison
    source: str
    measure: str = "training"

    def finding(self, verdict: Verdict, together: Sequence[Comparison]) -> Finding:
        """The sentence, with its rule."""
        one, *_, other = self.nets
        if self.source is _DEGRADATION:
            sentence = _across_depth(self.nets, verdict)
        elif self.source is _PAIR:
            sentence = _against_plain(one, other, verdict)
        else:
            sentence = _against_original(one, other, self.measure, verdict)
        return Finding(sentence, f"{self.source} {told_by(self._test, together)}{and_p(self.comparison, verdict)}")

    @property
    def _test(self) -> str:
        if all(_errors(net, self.measure).has_spread for net in self.nets):
            return _SEEDS
        return _TEST_COUNTS if self.measure == "test" else _TRAINING_COUNTS


def findings(runs: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """The findings on the errors of the last epoch, in sentences with numbers.

    Runs of one recipe and data set are compared: within a family the trend of training errors over all depths, at each
    depth the training error of the residual net with that of the plain one, and the test errors of residual nets with
    other shortcuts or units with that of the original. Several seeds of one network are one net with its mean error;
    below three seeds, their spread is taken as known. A run near chance,
    which has learnt almost nothing, is not compared, nor are runs of few steps with fewer seeds.

    Args:
        runs: The facts on complete runs: network, description, error (of training, a fraction), images (of the last
            epoch), key (recipe without its seed, and data), and if they are known seed, steps, test_error, test_images
            and classes.
    """
    known = nets_of(runs)
    nets = [net for net in known if net.has_learnt]
    claims = [*_trends(nets), *_pairs(nets), *_variants(nets)]
    found = [claim for claim in claims if not any(net.is_short for net in claim.nets)]
    together = [one.comparison for one in found]
    return [
        *(one.finding(verdict, together) for one, verdict in zip(found, holm(together), strict=True)),
        *_not_learnt([net for net in known if not net.has_learnt]),
        *_too_short([net for net in nets if net.is_short and any(net in claim.nets for claim in claims)]),
    ]


def _errors(net: Net, measure: str) -> Errors:
    return net.test if measure == "test" and net.test is not None else net.training


def _trends(nets: list[Net]) -> list[_Claim]:
    found = []
    for _, family in _groups(nets, lambda net: (net.key, net.known["series"])):
        depths = sorted(family, key=lambda net: net.depth)
        if len({net.depth for net in depths}) > 1:
            found.append(_Claim(tuple(depths), _slope(depths), _DEGRADATION))
    return found


def _pairs(nets: list[Net]) -> list[_Claim]:
    found = []
    for _, group in _groups(nets, lambda net: (net.key, net.form, net.depth)):
        alike = list(group)
        plain = [net for net in alike if net.known["kind"] == "plain"]
        found += [
            _Claim((one, other), compared(one.training, other.training), _PAIR)
            for one in plain
            for other in alike
            if other.known["kind"] == "residual"
        ]
    return found


def _variants(nets: list[Net]) -> list[_Claim]:
    found = []
    for _, depth in _groups(nets, lambda net: (net.key, net.depth, net.known["family"])):
        original, *others = sorted(depth, key=lambda net: (not net.is_original, net.known["series"]))
        for net in others if original.is_original else ():
            measure = "test" if original.test and net.test else "training"
            comparison = compared(_errors(original, measure), _errors(net, measure))
            found.append(_Claim((original, net), comparison, _VARIANT, measure))
    return found


def _slope(nets: Sequence[Net]) -> Comparison:
    """The comparison of the slope of the training error over depth with 0."""
    errors, depths = [net.training for net in nets], [net.depth for net in nets]
    if all(each.has_spread for each in errors):
        return trend_of_means(depths, [Estimate.of(each.shares) for each in errors])
    return trend_of_known(depths, [each.mean for each in errors], [each.standard_error for each in errors])


def _across_depth(nets: Sequence[Net], verdict: Verdict) -> str:
    errors = ", ".join(f"{_percent(net.training)} ({net.depth})" for net in nets)
    known = nets[0].known
    kind, series = known["kind"].capitalize(), known["series"]
    # Several series of one kind, as plain-ll and plain-crelu, are told apart.
    subject = f"{kind} nets" if series == known["family"] else f"{kind} nets ({series})"
    start = f"{subject} end with a {_measured('training', *nets)} of {errors}: "
    plain = known["kind"] == "plain"
    if verdict is Verdict.NOTHING:
        return f"{start}no conclusion is possible."
    if not verdict.speaks:
        return f"{start}there is no significant trend over depth."
    pairs = [(a, b) for a, b in combinations(nets, 2) if a.depth < b.depth]
    steps = holm([_slope(pair) for pair in pairs])
    if any(step.speaks and step is not verdict for step in steps):
        return f"{start}it does not change with depth in one direction."
    if verdict is Verdict.LARGER:
        return f"{start}deeper nets train worse, which is degradation and not overfitting."
    return f"{start}deeper nets train better, " + ("no degradation." if plain else "as expected.")


def _against_plain(plain: Net, residual: Net, verdict: Verdict) -> str:
    error = _measured("training", plain, residual)
    whose = f"the residual net's {error}" if residual.is_original else f"the {error} of {residual.network}"
    return (
        f"At depth {plain.depth} {whose}, {_percent(residual.training)}, is {_than(verdict)} the plain net's, "
        f"{_percent(plain.training)}."
    )


def _against_original(original: Net, variant: Net, measure: str, verdict: Verdict) -> str:
    own, others = _errors(variant, measure), _errors(original, measure)
    return (
        f"{variant.network} ends with a {_measured(measure, original, variant)} of {_percent(own)}, "
        f"{_than(verdict)} that of {original.network}, {_percent(others)}."
    )


def _measured(measure: str, *nets: Net) -> str:
    """The name of the error, which is a mean if there are several seeds."""
    seeds = [len(_errors(net, measure).shares) for net in nets]
    fewest, most = min(seeds), max(seeds)
    if most == 1:
        return f"{measure} error"
    return f"mean {measure} error over {fewest if fewest == most else f'{fewest} to {most}'} seeds"


def _than(verdict: Verdict) -> str:
    return {Verdict.LARGER: "higher than", Verdict.SMALLER: "lower than"}.get(
        verdict, "not significantly different from"
    )


def _not_learnt(nets: Sequence[Net]) -> list[Finding]:
    return [
        Finding(
            f"{net.network} ends with a training error of {_percent(net.training)}, near chance: it is not "
            "compared with others.",
            "A net whose accuracy is at most twice chance has not learnt; for two classes, at most 3/4.",
        )
        for net in nets
    ]


def _too_short(nets: list[Net]) -> list[Finding]:
    if not nets:
        return []
    steps = [net.steps for net in nets if net.steps is not None]
    made = ("" if min(steps) == max(steps) else f"{min(steps):,} to ") + counted(max(steps), "step")
    return [
        Finding(
            f"{listed([net.network for net in nets])} ended after {made}, too few for a "
            f"verdict on fewer than {FEWEST_SEEDS} seeds: another seed may differ by more.",
            f"Below {LEAST_STEPS:,} steps the spread over seeds is estimated, from {FEWEST_SEEDS} seeds or more.",
        )
    ]


def _percent(errors: Errors) -> str:
    return f"{errors.mean:.2%}"


def _groups(nets: list[Net], key: Any) -> Any:
    return groupby(sorted(nets, key=key), key)
