"""Notes on gradients that are absent or not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gradlab.probes.weights import WeightRow

REASONS = {
    "frozen": "frozen (requires_grad is off), so there is no gradient",
    "not reached": "the loss does not reach it: there is no gradient",
    "cleared": "no parameter of the model has a gradient: zero_grad() came before step(), or backward() did not run",
    "no graph": "ran without a graph (under no_grad, frozen with nothing trained before it, or in reentrant activation "
    "checkpointing, which use_reentrant=False replaces), so its response has no gradient",
    "several passes": "several backward passes came back through one graph of which the first did not keep it "
    "(retain_graph), so that their sum is not known: use retain_graph=True, or one loss",
    "overwritten": "its output is a view that was changed in place, of which autograd has no gradient: let the layer "
    "return a tensor of its own",
    "not run": "did not run",
}
"""The explanation of each value of the column `absent`."""


def gradient_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write sentences on absent and non-finite gradients, with the names of the layers and the steps.

    Args:
        rows: The rows that `GradientsResult.from_rows` takes.
    """
    steps = len({row["step"] for row in rows})
    notes = []
    for reason, words in REASONS.items():
        if found := [row for row in rows if row.get("absent") == reason]:
            notes.append(f"{_names(found)}: {words}{_when(found, steps)}")
    if found := [row for row in rows if row.get("non_finite")]:
        notes.append(f"{_names(found)}: the gradient holds NaN or infinite values{_when(found, steps)}")
    return notes


def shared_notes(rows: Iterable[WeightRow]) -> list[str]:
    """Write a sentence on the rows that share a weight.

    Args:
        rows: All measured rows.
    """
    owners: dict[int, list[str]] = {}
    for row in rows:
        for number in {id(part.parameter) for part in row.parts if part.rows is None}:
            owners.setdefault(number, []).append(row.name)
    shared = list(dict.fromkeys(" and ".join(names) for names in owners.values() if len(names) > 1))
    if not shared:
        return []
    return [
        f"{'; '.join(shared[:3])}{'; …' if len(shared) > 3 else ''}: one parameter, so that the gradient in each of "
        "these rows is that of all its uses; totals and coverage count it once"
    ]


def _names(rows: Iterable[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(row["layer"] or "the model itself" for row in rows))
    return ", ".join(names[:3]) + (f", … ({len(names)} layers)" if len(names) > 3 else "")


def _when(rows: Iterable[Mapping[str, Any]], steps: int) -> str:
    """Say at which steps, if more than one was measured."""
    at = sorted({row["step"] for row in rows})
    if steps == 1:
        return ""
    return f" at step {at[0]}" if len(at) == 1 else f" at {len(at)} of {steps} steps, first at step {at[0]}"
