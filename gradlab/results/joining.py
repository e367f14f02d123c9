"""Joins several measurements: rows of one layer are merged, and networks of one name are distinguished."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_KEY = ("network", "seed", "step", "block", "layer", "call")
_RUN = ("network", "seed", "step", "block")


def joined(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """Join two gradients frames, merging rows of one layer, call and step.

    If both have a value, that of the first is kept. A row that only the other has comes after the row that it follows
    there, and layers are then renumbered.

    Args:
        frame: The frame with precedence.
        other: The frame to add.
    """
    left, right = (part.set_axis(_keys(part), axis=0) for part in (frame, other))
    order = _merged(left, right)
    both = left.combine_first(right).loc[order]
    # Values missing here are known: there are no non-finite ones, and the gradient of the first is present.
    both["non_finite"] = left["non_finite"].reindex(order, fill_value=False) | right["non_finite"].reindex(
        order, fill_value=False
    )
    shared = left.index.intersection(right.index)
    both.loc[shared, "absent"] = left.loc[shared, "absent"]
    columns = [*frame.columns, *(column for column in other.columns if column not in frame.columns)]
    return _numbered(both.reset_index(drop=True)[columns].astype(frame.dtypes))


def told_apart(names: Sequence[Sequence[str]], seeds: Sequence[set[object]]) -> list[dict[str, str]]:
    """New names of the networks of several results, numbered if two of one name do not have different seeds.

    Args:
        names: The networks of each result.
        seeds: The seeds of each.

    Returns:
        For each result the new name of each of its networks.
    """
    taken: dict[str, set[object]] = {}
    new = []
    for networks, own in zip(names, seeds, strict=True):
        chosen = {}
        for name in networks:
            number, label = 1, name
            while label in taken and (taken[label] & own or None in own | taken[label]):
                number += 1
                label = f"{name} ({number})"
            chosen[name] = label
        for label in chosen.values():
            taken.setdefault(label, set()).update(own)
        new.append(chosen)
    return new


def _merged(left: pd.DataFrame, right: pd.DataFrame) -> list[str]:
    """The keys of both frames in one order, run by run."""
    runs: dict[str, tuple[list[str], list[str]]] = {}
    for side, part in enumerate((left, right)):
        for key, run in zip(part.index, _runs(part), strict=True):
            runs.setdefault(run, ([], []))[side].append(key)
    return [key for first, second in runs.values() for key in _one_order(first, second)]


def _one_order(first: list[str], second: list[str]) -> list[str]:
    """All keys of the first list, with each of the others after the one that precedes it in the second."""
    known, previous = {*first}, ""
    after: dict[str, list[str]] = {}
    for key in second:
        if key in known:
            previous = key
        else:
            after.setdefault(previous, []).append(key)
    return [*after.get("", []), *(key for one in first for key in (one, *after.get(one, [])))]


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with layers numbered in its order, in each run whose numbers are not already in order."""
    for _, rows in frame[frame["index"].notna()].groupby(pd.Series(_runs(frame)), sort=False):
        if rows["index"].duplicated().any() or not rows["index"].is_monotonic_increasing:
            frame.loc[rows.index, "index"] = range(1, len(rows) + 1)
    return frame


def _runs(frame: pd.DataFrame) -> list[str]:
    """The network, seed and step of each row, and whether it is that of a layer, a block or the total."""
    return [
        f"{run} {index is pd.NA}"
        for run, index in zip(
            frame[list(_RUN)].itertuples(index=False, name=None), frame["index"].astype("Int64"), strict=True
        )
    ]


def _keys(frame: pd.DataFrame) -> list[str]:
    """One text per row, since a missing seed would not be equal to itself."""
    return [str(row) for row in frame[list(_KEY)].itertuples(index=False, name=None)]
