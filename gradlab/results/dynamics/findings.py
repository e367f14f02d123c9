"""What records of a training show: where, at which layer and since which step something is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from gradlab.results.dynamics.growth import Stretch, last_growth
from gradlab.results.dynamics.names import TOTAL
from gradlab.results.dynamics.rules import DEAD, DIVERGED, JUMP, SATURATED, WINDOW, exceeds, out_of_line, since, spikes
from gradlab.results.dynamics.seen import Earlier, Seen
from gradlab.results.dynamics.step_findings import added, cancelled, cleared, clipped, updates
from gradlab.results.dynamics.tables import Array, Table, total_series, totals

_LASTING = 3
"""Records in which loss and gradient norm are to be large."""


def seen(frame: pd.DataFrame, earlier: Earlier | None = None) -> list[Seen]:
    """All that stands out in the records of one network, what comes first first.

    Args:
        frame: Dynamics of one network.
        earlier: What is known of records before these, where there are any.
    """
    broken = list(_non_finite(frame))
    whole = frame
    if broken:
        # What comes later is none of its causes, and of what is no number neither zeros nor updates tell anything.
        frame, whole = frame[frame["step"] <= broken[0].step], frame[frame["step"] < broken[0].step]
    gradients, responses = Table.of(frame, "grad_norm"), Table.of(frame, "response_std")
    return [
        *broken,
        *_spikes(frame, gradients, responses),
        *_divergence(whole, earlier or Earlier()),
        *_no_gradients(whole),
        *cleared(whole),
        *added(whole),
        *(_zero_gradients(gradients) if gradients else ()),
        *(_gradient_growth(gradients) if gradients else ()),
        *(_response_growth(responses) if responses else ()),
        *(_jumps(responses) if responses else ()),
        *_shares(whole, "dead_units", "dead", DEAD),
        *_shares(whole, "saturated_fraction", "saturated", SATURATED),
        *updates(whole),
        *clipped(whole),
        *cancelled(whole, earlier or Earlier()),
    ]


def _non_finite(frame: pd.DataFrame) -> Iterator[Seen]:
    lost = frame[~np.isfinite(frame["value"]) | (frame["statistic"] == "non_finite_fraction")]
    if lost.empty:
        return
    step = int(lost["step"].min())
    lost = lost[lost["step"] == step].sort_values("index")
    layers = lost[lost["index"] > 0]
    forward = layers[layers["statistic"].isin(["non_finite_fraction", "response_max", "response_std"])]
    backward = layers[layers["statistic"].str.contains("grad")]
    if len(forward):
        layer = str(forward.iloc[0]["layer"])
        told = f"the response of {layer} is the first not to be finite"
    elif len(backward):
        layer = str(backward.iloc[-1]["layer"])
        told = f"responses are finite, and the gradient of {layer}, the nearest to the loss, is the first not to be"
    else:
        layer = str(lost.iloc[0]["layer"])
        told = f"{lost.iloc[0]['statistic']} of {layer} is not finite"
    yield Seen("non-finite", step, layer, f"at step {step:,} {told}.")


def _spikes(frame: pd.DataFrame, gradients: Table | None, responses: Table | None) -> Iterator[Seen]:
    found: dict[int, str] = {}
    for what, statistic in (("gradient norm", "grad_norm"), ("loss", "loss")):
        steps, values = total_series(frame, statistic)
        for place in spikes(values):
            before = float(np.median(values[max(0, place - WINDOW) : place]))
            told = f"the {what} spikes at step {steps[place]:,}, from {before:.3g} to {values[place]:.3g}"
            found.setdefault(steps[place], told)
    for step, told in sorted(found.items()):
        forward = [] if responses is None else _above(responses, step)
        backward = [] if gradients is None else _above(gradients, step)
        if forward:
            way, layer = f"; it came forward: the first response out of line is that of {forward[0]}", forward[0]
        elif backward:
            way, layer = f"; it came backward: the last gradient out of line is that of {backward[-1]}", backward[-1]
        else:
            way, layer = "", TOTAL
        yield Seen("spike", step, layer, f"{told}{way}.")


def _divergence(frame: pd.DataFrame, earlier: Earlier) -> Iterator[Seen]:
    """Loss and gradient norm that have grown since the first record, and stay so, by steps that are too large.

    A loss may also grow as data, task or adversary become harder, or its factors larger: by no doing of the steps.
    """
    names = ("loss", "grad_norm", "predicted_loss_change")
    losses, norms, predicted = (totals(frame[frame["layer"] == TOTAL], name) for name in names)
    steps = [step for step in losses if step in norms]
    values: Array = np.array([(losses[step], norms[step]) for step in steps]).reshape(-1, 2)
    if earlier.first:
        first: Array = np.array([earlier.first.get(name, np.nan) for name in ("loss", "grad_norm")])
    elif len(steps) > _LASTING:
        first = values[0]
    else:
        return
    grown = np.all(values > DIVERGED * first, axis=1)
    if len(steps) < _LASTING or not (first > 0).all() or not grown[-_LASTING:].all():
        return
    place = since(grown)
    if not any(-predicted.get(step, 0.0) > losses[step] for step in steps[place:]):
        return
    step, last = steps[place], np.median(values[-_LASTING:], axis=0)
    sentence = (
        f"the training diverges: since step {step:,} of those recorded the loss is {last[0]:.3g} and the gradient norm "
        f"{last[1]:.3g} (medians of the last three), after {first[0]:.3g} and {first[1]:.3g} at the first record."
    )
    yield Seen("diverging", step, TOTAL, sentence)


def _above(table: Table, step: int) -> list[str]:
    """The layers whose value at a step is at least twice that of before, and lies beyond chance."""
    if step not in table.steps:
        return []
    place = table.steps.index(step)
    return [layer for layer, values in zip(table.layers, table.values.T, strict=True) if exceeds(values, place, 2.0)]


def _where(places: Sequence[int], layers: Sequence[str]) -> str:
    """In which layers something is: the last of them, and whether it is in all before it."""
    count, last = len(places), layers[places[-1]]
    if count == 1:
        return f"in {last}"
    if count == places[-1] + 1:
        before = "the layer" if count == 2 else f"all {count - 1} layers"
        return f"in {last} and {before} before it"
    return f"in {count} of {len(layers)} layers, the last of them {last}"


def _no_gradients(frame: pd.DataFrame) -> Iterator[Seen]:
    """Layers that ran at the last record, and whose weights are stepped without a gradient."""
    last = frame[(frame["step"] == frame["step"].max()) & (frame["index"] > 0)]
    stepped = last[last["statistic"] == "weight_norm"].sort_values("index")["layer"].astype(str).tolist()
    having, ran = (set(last.loc[last["statistic"] == name, "layer"]) for name in ("grad_norm", "response_max"))
    places = [place for place, layer in enumerate(stepped) if layer in ran - having]
    if not having or not places:
        return
    layer = stepped[places[-1]]
    own = frame[frame["layer"] == layer]
    steps = np.unique(own.loc[own["statistic"] == "weight_norm", "step"])
    step = int(steps[since(~np.isin(steps, own.loc[own["statistic"] == "grad_norm", "step"]))])
    where = _where(places, stepped)
    yield Seen("no gradient", step, layer, f"no gradient arrives {where}, since step {step:,} of those recorded.")


def _zero_gradients(table: Table) -> Iterator[Seen]:
    zero = table.values == 0
    if not zero[-1].any():
        return
    places = np.flatnonzero(zero[-1]).tolist()
    step, layer, where = table.steps[since(zero[:, places[-1]])], table.layers[places[-1]], _where(places, table.layers)
    yield Seen(
        "zero gradient", step, layer, f"the gradient is exactly 0 {where}, since step {step:,} of those recorded."
    )


def _gradient_growth(table: Table) -> Iterator[Seen]:
    found = last_growth(table.without_copies())
    if found is not None:
        kind = "vanish" if found.line.rate > 1 else "explode"
        rate = f"gradients {kind} towards the input, by a factor of {1 / found.line.rate:.3g} a layer"
        yield Seen("gradient", table.steps[found.first], _first_layer(table, found), _sentence(rate, table, found))


def _response_growth(table: Table) -> Iterator[Seen]:
    found = last_growth(table)
    if found is not None:
        kind = "grow" if found.line.rate > 1 else "shrink"
        rate = f"responses {kind} with depth, by a factor of {found.line.rate:.3g} a layer"
        yield Seen("response", table.steps[found.first], _first_layer(table, found), _sentence(rate, table, found))


def _sentence(rate: str, table: Table, found: Stretch) -> str:
    """State a growth with the values at its ends and the records in which it was seen."""
    values, last, first = table.values[found.last], found.line.last, _first_layer(table, found)
    ends = f"{values[table.layers.index(first)]:.3g} in {first} to {values[last]:.3g} in {table.layers[last]}"
    start, stop = table.steps[found.first], table.steps[found.last]
    if found.lasts:
        when = f"at step {stop:,}; they have since step {start:,} of those recorded"
    elif start == stop:
        when = f"at step {stop:,}, and at no later one of those recorded"
    else:
        when = f"at step {stop:,}; they have from step {start:,} to {stop:,} of those recorded, and not after"
    return f"{rate}: {ends} {when}."


def _first_layer(table: Table, found: Stretch) -> str:
    """The layer at the lower end: a gradient that has vanished is 0 there, not what is left of it further up."""
    return table.layers[0 if table.values[found.last, 0] == 0 else found.line.first]


def _jumps(table: Table) -> Iterator[Seen]:
    # At the step that has lost its numbers few responses are left to compare.
    telling = np.flatnonzero((np.isfinite(table.values) & (table.values > 0)).sum(1) > 5)
    if not telling.size:
        return
    values, step = table.values[telling[-1]], table.steps[telling[-1]]
    with np.errstate(divide="ignore", invalid="ignore"):
        steps: Array = values[1:] / values[:-1]
    for place in out_of_line(steps, JUMP):
        layer, before = table.layers[place + 1], table.layers[place]
        sentence = (
            f"the response of {layer} has {steps[place]:.3g} times the std of that before it, in {before}; of other "
            f"layers the median is {np.nanmedian(steps):.3g} (step {step:,})."
        )
        yield Seen("jump", step, layer, sentence)


def _shares(frame: pd.DataFrame, statistic: str, kind: str, least: float) -> Iterator[Seen]:
    table = Table.of(frame, statistic)
    if table is None:
        return
    held = table.values >= least
    places = np.flatnonzero(held[-1])
    if not places.size:
        return
    first = int(places[0])
    step = table.steps[since(held[:, first])]
    what = "of the units are dead" if kind == "dead" else "of the values are saturated"
    others = (
        f", and in {places.size - 1} more of {len(table.layers)} layers {least:.0%} or more" if places.size > 1 else ""
    )
    share = table.values[-1, first]
    sentence = f"{share:.0%} {what} in {table.layers[first]}{others}; since step {step:,} of those recorded."
    yield Seen(kind, step, table.layers[first], sentence)
