"""What is to be said of gradients that are not there, or not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

REASONS = {
    "frozen": "frozen (requires_grad is off), so there is no gradient",
    "not reached": "the loss does not reach it: there is no gradient",
    "cleared": "no parameter of the model has a gradient: zero_grad() came before step(), or backward() did not run",
    "no graph": "ran without a graph (under no_grad, or in reentrant activation checkpointing, which "
    "use_reentrant=False replaces), so its response has no gradient",
    "not run": "did not run",
}
"""The words for each value of the column `absent`."""


def gradient_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Sentences on absent and non-finite gradients, with the layers' names and the steps.

    Args:
        rows: As of `GradientsResult.from_rows`.
    """
    steps = len({row["step"] for row in rows})
    notes = []
    for reason, words in REASONS.items():
        if found := [row for row in rows if row.get("absent") == reason]:
            notes.append(f"{_names(found)}: {words}{_when(found, steps)}")
    if found := [row for row in rows if row.get("non_finite")]:
        notes.append(f"{_names(found)}: the gradient holds NaN or infinite values{_when(found, steps)}")
    return notes


def _names(rows: Iterable[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(row["layer"] or "the model itself" for row in rows))
    return ", ".join(names[:3]) + (f", … ({len(names)} layers)" if len(names) > 3 else "")


def _when(rows: Iterable[Mapping[str, Any]], steps: int) -> str:
    """At which steps, where more than one was measured."""
    at = sorted({row["step"] for row in rows})
    if steps == 1:
        return ""
    return f" at step {at[0]}" if len(at) == 1 else f" at {len(at)} of {steps} steps, first at step {at[0]}"
