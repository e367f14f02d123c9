"""Several measurements as one: rows of one layer side by side, and networks of one name kept apart."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

_KEY = ("network", "seed", "step", "block", "layer", "call")
_RUN = ("network", "seed", "step", "block")


def joined(frame: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    """The rows of two gradients frames, those of one layer, call and step as one.

    Where both have a value the first one's stands. Each row that only the other has comes after the one that it
    follows there, and layers are numbered anew where there are such rows.

    Args:
        frame: The one that decides.
        other: What is added.
    """
    left, right = (part.set_axis(_keys(part), axis=0) for part in (frame, other))
    order = _merged(left, right)
    both = left.combine_first(right).loc[order]
    # What is missing here is not unknown: there is nothing non-finite, and the first one's gradient is there.
    both["non_finite"] = left["non_finite"].reindex(order, fill_value=False) | right["non_finite"].reindex(
        order, fill_value=False
    )
    shared = left.index.intersection(right.index)
    both.loc[shared, "absent"] = left.loc[shared, "absent"]
    columns = [*frame.columns, *(column for column in other.columns if column not in frame.columns)]
    return _numbered(both.reset_index(drop=True)[columns].astype(frame.dtypes))


def told_apart(names: Sequence[Sequence[str]], seeds: Sequence[set[object]]) -> list[dict[str, str]]:
    """New names of the networks of several results, numbered where two of one name are not of different seeds.

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
    """The keys of both in one order, run by run."""
    runs: dict[str, tuple[list[str], list[str]]] = {}
    for side, part in enumerate((left, right)):
        for key, run in zip(part.index, _runs(part), strict=True):
            runs.setdefault(run, ([], []))[side].append(key)
    return [key for first, second in runs.values() for key in _one_order(first, second)]


def _one_order(first: list[str], second: list[str]) -> list[str]:
    """All of the first, and each of the others after the one that stands before it in the second."""
    known, previous = {*first}, ""
    after: dict[str, list[str]] = {}
    for key in second:
        if key in known:
            previous = key
        else:
            after.setdefault(previous, []).append(key)
    return [*after.get("", []), *(key for one in first for key in (one, *after.get(one, [])))]


def _numbered(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with layers numbered in its order, in each run that does not number them so already."""
    for _, rows in frame[frame["index"].notna()].groupby(pd.Series(_runs(frame)), sort=False):
        if rows["index"].duplicated().any() or not rows["index"].is_monotonic_increasing:
            frame.loc[rows.index, "index"] = range(1, len(rows) + 1)
    return frame


def _runs(frame: pd.DataFrame) -> list[str]:
    """Which network, seed and step each row is of, and whether it is of a layer, a block or of all together."""
    return [
        f"{run} {index is pd.NA}"
        for run, index in zip(
            frame[list(_RUN)].itertuples(index=False, name=None), frame["index"].astype("Int64"), strict=True
        )
    ]


def _keys(frame: pd.DataFrame) -> list[str]:
    """One text a row: a missing seed would not be equal to itself."""
    return [str(row) for row in frame[list(_KEY)].itertuples(index=False, name=None)]
