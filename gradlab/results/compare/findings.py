"""What the networks of a comparison show, as verdicts at a stated rate of false alarms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from gradlab.results.degradation.nets import LEAST_STEPS, SEED_SPREAD, Errors
from gradlab.results.finding import Finding
from gradlab.results.grouping import counted
from gradlab.results.intervals import factor_with_interval, told_by, with_interval
from gradlab.results.label import description
from gradlab.stats.verdict import Comparison, Estimate, Verdict, difference, holm

Facts = Mapping[str, Any]
Pair = tuple[str, str]
"""Two networks: the one that is judged, and the one that it is compared with."""

Answers = Mapping[str, Mapping[Verdict | None, str]]
"""What networks show, by the question and the verdict on all of its pairs."""

RANK = "relative_effective_rank"

SOURCES = {
    "depth": "He et al. 2015 (1512.03385), §1: is learning better networks as easy as stacking more layers?",
    "shortcut": "He et al. 2015 (1512.03385), §4.2: residual nets against plain nets of equal depth.",
    "block": "Networks of different blocks, of equal size, against the first.",
}

INITIAL: Answers = {
    "depth": {
        Verdict.LARGER: "Depth makes the gradient less even",
        Verdict.SMALLER: "Depth makes the gradient more even",
        Verdict.ALIKE: "Depth makes no significant difference to how even the gradient is",
        None: "How depth changes the gradient depends on the family",
    },
    "shortcut": {
        Verdict.LARGER: "The shortcut makes the gradient less even",
        Verdict.SMALLER: "The shortcut makes the gradient more even",
        Verdict.ALIKE: "The shortcut makes no significant difference to how even the gradient is",
        None: "How the shortcut changes the gradient depends on the depth",
    },
}
"""What a question's networks show at initialization, by the verdict on how far the gradient's ratio is from 1.

None stands for pairs that differ in both directions.
"""

TRAINED: Answers = {
    "depth": {
        Verdict.LARGER: "Deeper is not always better",
        Verdict.SMALLER: "Deeper is better here",
        Verdict.ALIKE: "Depth makes no significant difference here",
        None: "It depends on the family",
    },
    "shortcut": {
        Verdict.LARGER: "The shortcut does not help here",
        Verdict.SMALLER: "The shortcut helps",
        Verdict.ALIKE: "The shortcut makes no significant difference here",
        None: "It depends on the depth",
    },
}
"""The answers to a question, by the verdict on an error."""

UNTOLD = {
    Verdict.ALIKE: "not significantly different from",
    Verdict.NOTHING: "without a verdict, beside",
}
"""What stands between two values of which none is said to be larger."""

_MANY = 1e9
"""The degrees of freedom of an error that is known from counts."""


@dataclass(frozen=True)
class _Quantity:
    """A quantity of every network, of which less is better or which has no better side.

    Attributes:
        subject: What is told of every network, before its value.
        shown: A function that gives the value of a network in words.
        estimates: The estimates that are compared, by network.
        words: The words for the verdicts that one is larger or smaller.
        openings: What it says on each question, by the verdict; empty if it answers none.
        limits: What it does not tell, as a sentence.
        test: How the comparisons are made.
    """

    subject: str
    shown: Callable[[str], str]
    estimates: Mapping[str, Estimate]
    words: tuple[str, str]
    openings: Answers
    limits: str
    test: str


def findings(frame: pd.DataFrame, facts: Sequence[Facts], question: str) -> list[Finding]:
    """Two sentences on the networks as trained, if they were, and two on them as initialized.

    Args:
        frame: The frame of a comparison.
        facts: The facts on its networks, in order.
        question: `depth`, `shortcut` or `block`.
    """
    pairs = _pairs(facts, question)
    trained = _trained(frame, facts)
    quantities = [*trained, *_initial(frame, facts, bool(trained))]
    comparisons = {
        (place, pair): difference(one.estimates[pair[0]], one.estimates[pair[1]])
        for place, one in enumerate(quantities)
        for pair in pairs
    }
    verdicts = dict(zip(comparisons, holm(list(comparisons.values())), strict=True))
    return [
        _finding(one, question, {pair: verdicts[place, pair] for pair in pairs}, list(comparisons.values()))
        for place, one in enumerate(quantities)
    ]


def _pairs(facts: Sequence[Facts], question: str) -> list[Pair]:
    """The networks that are compared with each other."""
    if question == "block":
        return [(one["network"], facts[0]["network"]) for one in facts[1:]]
    known = [(one["network"], description(one)["kind"], description(one)["depth"]) for one in facts]
    if question == "shortcut":
        plain = {depth: name for name, kind, depth in known if kind == "plain"}
        return [(name, plain[depth]) for name, kind, depth in known if kind != "plain"]
    kinds = dict.fromkeys(kind for _, kind, _ in known)
    ends = [sorted((depth, name) for name, own, depth in known if own == kind) for kind in kinds]
    return [(nets[-1][1], nets[0][1]) for nets in ends]


def _initial(frame: pd.DataFrame, facts: Sequence[Facts], trained: bool) -> list[_Quantity]:
    """How far the gradient's norm changes over depth, and how correlated input gradients are."""
    ratios, ranks = _estimates(frame, "gradient_log_ratio"), _estimates(frame, RANK)
    test = "Welch's test over seeds, of initial weights and batch statistics"
    images = facts[0].get("images")
    where = "at initialization" + (f", on one batch of {images} images," if images else "")
    # A factor and its inverse depart equally from a gradient that keeps its norm.
    departures = {name: Estimate(abs(one.value), one.error, one.freedom, one.samples) for name, one in ratios.items()}
    return [
        _Quantity(
            f"{where} the norm of the gradient at the first convolution, over that at the last, is",
            lambda name: factor_with_interval(ratios[name]),
            departures,
            ("farther from 1", "closer to 1"),
            INITIAL,
            f"Which of them trains better, this does not tell{'' if trained else ' (--epochs trains them)'}.",
            f"{test}, of the distance of the ratio's logarithm from 0, which is that of a gradient with one norm "
            "throughout",
        ),
        _Quantity(
            f"{where} the effective rank of the input gradients relative to that of noise, where 1 is as shattered as "
            "noise, is",
            lambda name: with_interval(ranks[name], least=0),
            ranks,
            ("higher", "lower"),
            {},
            "",
            test,
        ),
    ]


def _estimates(frame: pd.DataFrame, statistic: str) -> dict[str, Estimate]:
    rows = frame[frame["statistic"] == statistic]
    return {row.network: Estimate.mean(row.value, row.sem, row.seeds) for row in rows.itertuples()}


def _trained(frame: pd.DataFrame, facts: Sequence[Facts]) -> list[_Quantity]:
    """The errors of the last epoch, if the networks were trained."""
    found = []
    for kind, name, images in (("train", "training", "training_images"), ("test", "test", "test_images")):
        rows = frame[frame["statistic"] == f"{kind}_error"]
        if rows.empty:
            continue
        last = rows.sort_values("place").groupby("network")["value"].last().to_dict()
        length = f"{rows['place'].max():g} epoch" + ("" if rows["place"].max() == 1 else "s")
        errors, limits = [last.get(one["network"], math.nan) for one in facts], _too_short(facts)
        estimates = {
            one["network"]: _unjudged(error) if limits else _share(error, one[images])
            for one, error in zip(facts, errors, strict=True)
        }
        found.append(
            _Quantity(
                f"after {length}, of one training each, the {name} error is",
                partial(_percent, estimates),
                estimates,
                ("higher", "lower"),
                TRAINED,
                limits,
                "the normal approximation to counts, and a seed taken to move an error by "
                f"{SEED_SPREAD:.1%} (one standard deviation) after {LEAST_STEPS:,} steps or more",
            )
        )
    return found


def _too_short(facts: Sequence[Facts]) -> str:
    """Why errors allow no verdict: "" if all trainings are known to be long enough."""
    counts = [one["training_steps"] for one in facts if "training_steps" in one]
    if len(counts) < len(facts):
        return "How many steps the trainings made is not recorded, and without it there is no verdict."
    steps = min(counts)
    too_few = f"{counted(steps, 'step')} {'is' if steps == 1 else 'are'}"
    return f"{too_few} too few for a verdict: another seed may differ by more." if steps < LEAST_STEPS else ""


def _percent(estimates: Mapping[str, Estimate], network: str) -> str:
    """An error in words."""
    error = estimates[network].value
    return "unknown" if math.isnan(error) else f"{error:.2%}"


def _unjudged(error: float) -> Estimate:
    """An error that no verdict is given on."""
    return Estimate(error, math.nan, _MANY, 0)


def _share(error: float, images: int) -> Estimate:
    """An error with its standard error, that of the count of images and that of the seed together.

    Without images, no error.
    """
    if not images:
        return _unjudged(error)
    return Estimate(error, Errors((error,), images).standard_error, _MANY, images)


def _finding(
    quantity: _Quantity, question: str, verdicts: Mapping[Pair, Verdict], together: Sequence[Comparison]
) -> Finding:
    """The sentence on a quantity, with its rule."""
    shown, start, parts = quantity.shown, quantity.subject, []
    phrases = dict(zip((Verdict.LARGER, Verdict.SMALLER), quantity.words, strict=True))
    for (one, other), verdict in verdicts.items():
        phrase = phrases.get(verdict)
        if question == "block":
            parts.append(f"{shown(one)} in {one} ({phrase or verdict})")
            continue
        against = f"{phrase} than" if phrase else UNTOLD[verdict]
        parts.append(f"{shown(one)} in {one}, {against} {shown(other)} in {other}")
    if question == "block":
        reference = next(iter(verdicts))[1]
        start += f" {shown(reference)} in {reference}, against"
    opening = _opening(quantity.openings.get(question, {}), [*verdicts.values()])
    sentence = f"{opening}: {start}" if opening else start[0].upper() + start[1:]
    told = " ".join(filter(None, (f"{sentence} {'; '.join(parts)}.", quantity.limits)))
    return Finding(told, f"{SOURCES[question]} {told_by(quantity.test, together)}")


def _opening(answers: Mapping[Verdict | None, str], verdicts: Sequence[Verdict]) -> str:
    """What all pairs together show; nothing if one of them allows no verdict.

    A single pair whose deeper net has the higher error shows that deeper is not always better. Otherwise pairs that
    differ in one direction are counted, if others do not differ.
    """
    said = [verdict for verdict in verdicts if verdict.speaks]
    if not answers or Verdict.NOTHING in verdicts:
        return ""
    if answers is TRAINED["depth"] and Verdict.LARGER in said:
        return answers[Verdict.LARGER]
    if len(set(said)) == 2:
        return answers[None]
    part = f" in {len(said)} of {len(verdicts)} comparisons" if 0 < len(said) < len(verdicts) else ""
    return answers[next(iter(said), Verdict.ALIKE)] + part
