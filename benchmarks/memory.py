"""Resident memory that a recorded training step adds; Linux only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from benchmarks import own
from benchmarks.compiled import network
from benchmarks.paired import Subject, Tool, each
from benchmarks.peers.gradients import GRADIENTS
from benchmarks.readings import resident
from benchmarks.table import Row

TOOLS = (own.PARAMETERS, *GRADIENTS)


JOB = "memory of a recorded step: norm of every gradient, ResNet-20, batch 16"


def rows(steps: int, known: Sequence[Row] = ()) -> Iterator[Row]:
    """A row for each tool, except those that are known."""
    return each(JOB, TOOLS, partial(row, steps), known)


def row(steps: int, tool: Tool) -> Row:
    """What a tool keeps of a step."""
    return Row.of(JOB, tool.title, [added(tool, steps)], "MiB", 0.01 if tool is own.PARAMETERS else None)


def added(tool: Tool, steps: int) -> float:
    """MiB a step, after the first third of them, where nothing but the tool keeps anything."""
    model, images = network("resnet20", 16)
    marks = []
    with tool.way(Subject(model, images, torch.arange(16) % 10)) as way:
        for step in range(steps):
            way.run()
            if step in (steps // 3, steps - 1):
                marks.append(resident())
    return (marks[1] - marks[0]) / (steps - 1 - steps // 3)
