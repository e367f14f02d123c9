"""What a comparison of two runs shows, in sentences with their rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from gradlab.results.compare_runs.departure import CHANGE, FACTOR, IN_A_ROW, LEAST_RECORDS, WINDOW
from gradlab.results.compare_runs.differences import APART, Difference, by_difference, is_compared, is_setting
from gradlab.results.compare_runs.pairs import Pair
from gradlab.results.finding import Finding
from gradlab.results.grouping import counted
from gradlab.stats.verdict import FALSE_ALARMS

BITS = (
    "Told of all values that both runs have recorded: they are compared bit by bit. Of those that differ at the first "
    "step, the first in the order of the computation is named: weights, responses from the input on, loss, gradients "
    "from the loss on, updates."
)
NOISE = (
    f"Told, at a rate of false alarms of {FALSE_ALARMS:.0%} over all statistics, of runs that differ by noise alone, "
    "where the logarithm of the ratio (of shares and cosines, the difference), of single records in "
    f"{IN_A_ROW[1]} in a row or of medians over 4, 16 or 64 in {IN_A_ROW[4]} in a row, leaves its mean over all "
    f"records before ({LEAST_RECORDS} at least) by a factor of {FACTOR:g} ({CHANGE:g}), by more than Student's t "
    "allows for its standard deviation before, and by more than it allows for the changes of each run from record to "
    f"record over {WINDOW} of them. A constant ratio, as of two seeds, is none."
)
RULES = {
    "noise": NOISE,
    "setting": "Told where a learning rate is set to different values.",
    "state": "Told where one run alone is not finite, or exactly 0 in three records in a row, and neither was before.",
    "start": (
        f"Told where, in the first {LEAST_RECORDS} records, a layer's ratio of the two runs differs from that of all "
        f"layers by a factor of {APART:g}, and by more than chance at the same rate."
    ),
}
_LEAST_END = 0.01
_END = f"Told without a verdict: medians over the last {LEAST_RECORDS} common records."


def findings(
    pairs: Sequence[Pair], bits: Sequence[Difference], parted: Sequence[Difference], names: tuple[str, str]
) -> Iterator[Finding]:
    """What two runs show side by side, the answer first.

    Args:
        pairs: What was compared.
        bits: The first difference of each pair that is not the same to the last bit.
        parted: The first difference beyond noise of each pair that has one.
        names: What to call the runs.
    """
    one, other = names
    layers = max(len(pair.layers) for pair in pairs)
    steps = sorted({step for pair in pairs for step in pair.steps})
    if not bits:
        of, at = counted(layers, "layer"), counted(len(steps), "step")
        extent = f"{counted(len({pair.statistic for pair in pairs}), 'statistic')} of {of} at {at}"
        yield Finding(f"{one} and {other} are the same to the last bit: {extent}.", BITS)
        return
    first = min(bits, key=lambda found: found.order)
    if parted:
        yield from _parted(parted, names)
    else:
        judged = sum(map(is_compared, pairs))
        yield Finding(f"{one} and {other} do not part beyond noise in any of {counted(judged, 'statistic')}.", NOISE)
    yield _first_bit(first, steps, names)
    yield from _end(pairs, names)


def _first_bit(first: Difference, steps: Sequence[int], names: tuple[str, str]) -> Finding:
    one, other = names
    place = steps.index(first.step)
    if place:
        begin = f"They are the same to the last bit up to step {steps[place - 1]:,}; at step {first.step:,} the first"
    else:
        begin = f"They are not the same to the last bit from the first common step on; at step {first.step:,} the first"
    more = f", and {first.layers - 1} more of its layers" if first.layers > 1 else ""
    values = f"{first.first!r} in {one} and {first.second!r} in {other}"
    return Finding(f"{begin} to differ is {first.statistic} of {first.layer}{more}: {values}.", BITS)


def _parted(parted: Sequence[Difference], names: tuple[str, str]) -> Iterator[Finding]:
    """The first, and how the others follow."""
    one, other = names
    ordered = sorted(parted, key=lambda found: found.order)
    first = ordered[0]
    yield Finding(f"{one} and {other} {_told(first, names)}", RULES[first.kind])
    if rest := ordered[1:]:
        named = ", ".join(f"{found.statistic} of {found.layer} at step {found.step:,}" for found in rest[:3])
        more = f", and {len(rest) - 3} more statistics" if len(rest) > 3 else ""
        yield Finding(f"Then they part in {named}{more}.", RULES[rest[0].kind])


def _told(found: Difference, names: tuple[str, str]) -> str:
    one, other = names
    where = f"at step {found.step:,}, first in {found.statistic} of {found.layer}"
    if found.kind == "setting":
        return f"are set to different values {where}: {found.first:g} and {found.second:g}."
    if found.kind == "state":
        states = [_state(value) for value in (found.first, found.second)]
        return f"part {where}: it is {states[0]} in {one} and {states[1]} in {other}."
    if found.kind == "start":
        times = f"{other} has {found.second / found.first:.3g} times the value of {one}, unlike in the other layers"
        return f"differ from the first records on, in {found.statistic} of {found.layer}: {times}."
    if by_difference(found.statistic):
        values = (
            f"{found.first:.3g} in {one} and {found.second:.3g} in {other}, whose difference was {found.before:.3g}"
        )
        return f"part beyond noise {where}: {values} before."
    times = f"{other} has {found.second / found.first:.3g} times the value of {one}"
    return f"part beyond noise {where}: {times}, and had {found.before:.3g} times before."


def _state(value: float) -> str:
    return "exactly 0" if value == 0 else "not finite" if np.isinf(value) else f"{value:.3g}"


def _end(pairs: Sequence[Pair], names: tuple[str, str]) -> Iterator[Finding]:
    """Where the runs lie farthest apart at the end."""
    farthest: tuple[float, str, str] | None = None
    for pair in pairs:
        if by_difference(pair.statistic) or is_setting(pair) or not is_compared(pair):
            continue
        with np.errstate(all="ignore"):
            ratios = np.median(pair.second[-LEAST_RECORDS:] / pair.first[-LEAST_RECORDS:], axis=0)
        for layer, ratio in zip(pair.layers, ratios, strict=True):
            far = abs(np.log(ratio)) if np.isfinite(ratio) and ratio > 0 else 0.0
            if far > (_LEAST_END if farthest is None else abs(np.log(farthest[0]))):
                farthest = float(ratio), pair.statistic, layer
    if farthest is not None:
        ratio, statistic, layer = farthest
        told = f"{names[1]} has {ratio:.3g} times the value of {names[0]}"
        yield Finding(f"At the end they lie farthest apart in {statistic} of {layer}: {told}.", _END)
