"""The weights without a response, and the reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import nn

from gradlab.probes.coverage import PACKED, coverage_of
from gradlab.probes.finder import ResponseFinder
from gradlab.probes.targets import ADDED, GAIN, LATER, NOT_RUN, REPLACED, SCRIPTED, added, replaced
from gradlab.results.coverage import Coverage
from gradlab.results.grouping import some

VECTORS = "vectors and scalars, which have no response of their own"

_SAID = (SCRIPTED, NOT_RUN)
"""Reasons that are also stated in a note, since the user may have intended otherwise."""


def reasons(finder: ResponseFinder) -> dict[str, str]:
    """Return the reasons why rows of weights have no response, by the name of the row.

    Args:
        finder: The finder after the measured passes.
    """
    found = dict(finder.targets.left_out)
    for name, target in finder.targets.chosen.items():
        if name in finder.silent:
            found |= {row.name: finder.silent[name] for row in target.rows}
        elif name not in finder.called:
            only_added = target.module is None and name in finder.applications.seen
            found |= {row.name: ADDED if only_added else NOT_RUN for row in target.rows}
    found |= dict.fromkeys(added(finder.model, finder.targets), LATER)
    for name in replaced(finder.model, finder.targets):
        found |= {row.name: REPLACED for row in finder.targets.chosen[name].rows}
    return found


def response_coverage(finder: ResponseFinder, measured: Iterable[str], left_out: Mapping[str, str]) -> Coverage:
    """Compute the coverage of the parameters by responses.

    Args:
        finder: The finder after the measured passes.
        measured: The layers with a value or a stated reason for its absence.
        left_out: The reasons from `reasons`.
    """
    measured = [*measured]
    targets = {id(target): target for target in map(finder.places.__getitem__, measured)}
    rows = [row for target in targets.values() for row in target.rows]
    coverage = coverage_of(finder.model, rows, left_out, vectors=VECTORS)
    # One row of a tied weight may have run, and another one not.
    said = {name for names in coverage.left_out.values() for name in names} | {row.name for row in rows}
    told = {reason: list(names) for reason, names in coverage.left_out.items()}
    # Packed weights have no rows.
    if packed := [name for name in told.pop(PACKED, []) if name not in measured]:
        told[PACKED] = packed
    for name, reason in left_out.items():
        if name not in said:
            told.setdefault(reason, []).append(name)
    return replace(coverage, left_out=told)


def unmeasured_notes(left_out: Mapping[str, str]) -> list[str]:
    """Write a sentence for each reason that the reader should know.

    Args:
        left_out: The reason for each name.
    """
    notes = []
    for reason in dict.fromkeys(left_out.values()):
        if reason in _SAID or reason not in (ADDED, GAIN):
            names = [name or "the model itself" for name, why in left_out.items() if why == reason]
            notes.append(f"{some(names)}: {'did not run' if reason == NOT_RUN else reason}; not measured")
    return notes


def scripted_norm_notes(model: nn.Module) -> list[str]:
    """Write a sentence on the normalizations in scripted modules, which may normalize a response out of sight.

    Args:
        model: The root module.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.jit.ScriptModule) and "norm" in str(module.original_name).lower()
    ]
    if not names:
        return []
    return [f"{some(names)}: {SCRIPTED}; the response of a layer before it is the layer's own output"]


def scripted_notes(finder: ResponseFinder) -> list[str]:
    """Write the sentences on all that has no response, or another one, since it is scripted.

    Args:
        finder: The finder of responses.
    """
    scripted = {name: reason for name, reason in finder.targets.left_out.items() if reason == SCRIPTED}
    return [*unmeasured_notes(scripted), *scripted_norm_notes(finder.model)]
