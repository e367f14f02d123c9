"""What records show of the steps that optimizers make: what they are given, and what they add."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from gradlab.results.dynamics.names import TOTAL
from gradlab.results.dynamics.rules import APART, CANCELLED, LEAST_UPDATES, at_full_rate, clipping, out_of_line, since
from gradlab.results.dynamics.seen import Earlier, Seen
from gradlab.results.dynamics.tables import Array, Table, totals


def cleared(frame: pd.DataFrame) -> Iterator[Seen]:
    """Steps that are given no gradient, or one of exactly 0, though a backward pass was made and has left one."""
    passes, left, given = (totals(frame, name) for name in ("loss", "grad_norm", "grad_norm_clipped"))
    weights = frame[(frame["statistic"] == "weight_norm") & frame["step"].isin(passes)]
    having = {*left, *given, *frame.loc[frame["statistic"] == "grad_norm", "step"]}
    steps = np.unique(weights["step"])
    held = np.array([step not in having or (given.get(step) == 0 and left.get(step, 0) > 0) for step in steps])
    if not held.any() or not held[-1] or steps[-1] != frame["step"].max():
        return
    step, layer = int(steps[since(held)]), str(weights.sort_values("index")["layer"].iloc[-1])
    sentence = (
        f"the optimizer is given no gradient but 0, since step {step:,} of those recorded, though a backward pass was "
        "made: zero_grad() may come between backward() and step()."
    )
    yield Seen("cleared", step, layer, sentence)


def added(frame: pd.DataFrame) -> Iterator[Seen]:
    """Steps whose backward passes add to the gradients of steps before."""
    steps = np.unique(frame["step"])
    held = np.isin(steps, [*totals(frame, "left_grad_norm")])
    if held.size > 1 and held[-2:].all():
        step = int(steps[since(held)])
        sentence = (
            f"backward passes add to the gradients of the steps before, since step {step:,} of those recorded: "
            "zero_grad() may be missing between steps."
        )
        yield Seen("added", step, TOTAL, sentence)


def updates(frame: pd.DataFrame) -> Iterator[Seen]:
    """Layers whose updates are out of line with those of all others."""
    table = Table.of(frame, "update_ratio")
    if table is None or len(table.steps) < LEAST_UPDATES:
        return
    recent = table.values[-10:]
    there = ~np.isnan(recent).all(0)
    medians = np.full(recent.shape[1], np.nan)
    medians[there] = np.nanmedian(recent[:, there], axis=0)
    for place in out_of_line(medians, APART):
        layer = table.layers[place]
        sentence = (
            f"the update of {layer} is {medians[place]:.3g} of its weight, against a median of "
            f"{np.nanmedian(medians):.3g} over all layers (the last {len(recent)} records)."
        )
        yield Seen("update", table.steps[-1], layer, sentence)


def clipped(frame: pd.DataFrame) -> Iterator[Seen]:
    """Clipping that leaves little of the gradient."""
    left, given = (totals(frame, name) for name in ("grad_norm", "grad_norm_clipped"))
    steps = sorted(left.keys() & given.keys())[-10:]
    pairs: Array = np.array([(left[step], given[step]) for step in steps]).reshape(-1, 2)
    factor = clipping(pairs[:, 0], pairs[:, 1])
    if factor is not None:
        first, last = np.nanmedian(pairs, axis=0)
        sentence = (
            f"clipping divides the gradient by {factor:.3g}: its norm is {first:.3g} before and {last:.3g} as the "
            f"optimizer is given it (medians of the last {len(steps)} records)."
        )
        yield Seen("clipping", steps[-1], TOTAL, sentence)


def cancelled(frame: pd.DataFrame, earlier: Earlier) -> Iterator[Seen]:
    """Updates that rounding takes away, while the learning rate is high.

    Args:
        frame: Dynamics of one network.
        earlier: What is known of records before these.
    """
    rows = frame[(frame["statistic"] == "cancelled_fraction") & (frame["index"] == 0)]
    # Optimizers that step apart have shares and learning rates of their own.
    for layer in rows["layer"].unique():
        yield from _cancelled(frame[frame["layer"] == layer], str(layer), earlier)


def _cancelled(frame: pd.DataFrame, layer: str, earlier: Earlier) -> Iterator[Seen]:
    shares = totals(frame, "cancelled_fraction")
    rates = frame[frame["statistic"].str.startswith("learning_rate")].groupby("step")["value"].max()
    steps: Array = np.array([step for step in shares if step in rates.index])
    full = steps[at_full_rate(rates.reindex(steps).to_numpy(dtype=float), earlier.highest_rate)].tolist()
    if len(full) < LEAST_UPDATES or (share := float(np.median([shares[step] for step in full]))) < CANCELLED:
        return
    whose = "" if layer == TOTAL else f" of {layer}"
    sentence = (
        f"rounding to 16 bits takes the whole update of {share:.0%} of the elements of weights{whose} (the median of "
        f"{len(full)} records since step {full[0]:,}): train float32 weights under autocast."
    )
    yield Seen("cancelled", full[0], layer, sentence)
