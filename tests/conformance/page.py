"""The page of the documentation that says what came of every cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conformance.cells import Outcome
from conformance.over_ranks import section
from conformance.situation import PROBES, Situation
from conformance.situations import SITUATIONS

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

HEAD = """# What the probes are right about

A probe gives the right number, or it says in one sentence why it does not. This page comes out of the tests that hold
it to that: {situations} small models and loops, whose forward passes are written out by hand a second time, so that
each probe can be compared with plain autograd, one example at a time. *Equal* is a relative deviation of at most 1e-6
in float64, and of 1e-5 where the situation is about float32; what autocast rounds has the bounds of its rounding. Of
{cells} cells {equal} are equal and {refused} refused; there is no third outcome. In none of them does a probe change
gradients, buffers or random states.

The columns are `ResponseStd`, `ParameterGradients`, `ResponseGradients`, `ExampleGradients` with `probe.backward` and
with `loss.backward`, and `InputGradients`. The number of a refusal is that of its sentence below the table; a dash
stands where there is nothing to ask.

The suite is `tests/conformance`. After a change `python scripts/write_conformance.py` writes this page anew.
"""

TITLES = ("responses", "parameters", "response gradients", "examples, probe", "examples, loss", "inputs")


def page(outcome: Callable[[Situation, str], Outcome]) -> str:
    """The page in Markdown.

    Args:
        outcome: Gives what came of a situation and a probe.
    """
    cells = {(s.name, probe): outcome(s, probe) for s in SITUATIONS for probe in PROBES if probe not in s.blank}
    kinds = [cell.kind for cell in cells.values()]
    if "wrong" in kinds:
        wrong = [f"{probe} in {name!r}" for (name, probe), cell in cells.items() if cell.kind == "wrong"]
        raise ValueError(f"there is no page while something is wrong: {'; '.join(wrong)}")
    counts = {"equal": kinds.count("equal"), "refused": kinds.count("refused"), "cells": len(cells)}
    parts = [HEAD.format(situations=len(SITUATIONS), **counts)]
    for kind in dict.fromkeys(situation.kind for situation in SITUATIONS):
        parts.append(_section(kind, cells))
    parts.append(section(_plain))
    return "\n".join(parts)


def _section(kind: str, cells: dict[tuple[str, str], Outcome]) -> str:
    """A heading, a table, and the sentences that it refers to."""
    sentences: dict[str, int] = {}
    lines = [f"## {kind}", "", f"| situation | {' | '.join(TITLES)} |", f"|---|{'---|' * len(TITLES)}"]
    for situation in SITUATIONS:
        if situation.kind == kind:
            row = [_cell(cells.get((situation.name, probe)), sentences) for probe in PROBES]
            lines.append(f"| {_plain(situation.name)} | {' | '.join(row)} |")
    lines += ["", *(f"{number}. {_plain(sentence)}" for sentence, number in sentences.items())]
    return "\n".join([*lines, ""] if sentences else lines)


def _cell(found: Outcome | None, sentences: dict[str, int]) -> str:
    if found is None:
        return "–"
    if found.kind == "refused":
        return f"refused ({sentences.setdefault(found.sentence, len(sentences) + 1)})"
    return found.kind


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    for character in "\\|*_<>[]`":
        text = text.replace(character, f"\\{character}")
    return text
