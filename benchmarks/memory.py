"""Resident memory that a recorded training step adds; Linux only."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import own
from benchmarks.apart import FailedApart, apart
from benchmarks.compiled import network
from benchmarks.paired import Subject, Tool
from benchmarks.peers.gradients import GRADIENTS
from benchmarks.readings import resident
from benchmarks.table import Row

TOOLS = (own.PARAMETERS, *GRADIENTS)


def rows(steps: int, depth: int = 20, goal: float = 0.01) -> Iterator[Row]:
    """A row for each tool."""
    job = f"memory of a recorded step: norm of every gradient, ResNet-{depth}, batch 16"
    for tool in TOOLS:
        print(f"{job}: {tool.title}", file=sys.stderr, flush=True)
        if reason := tool.missing():
            yield Row(job, tool.name, agrees=reason)
            continue
        try:
            value = apart(partial(added, tool, steps, depth))
        except FailedApart as failure:
            yield Row(job, tool.title, agrees=f"failed: {failure}")
            continue
        yield Row.of(job, tool.title, [value], "MiB", goal if tool is own.PARAMETERS else None)


def added(tool: Tool, steps: int, depth: int) -> float:
    """MiB a step, after the first third of them, where nothing but the tool keeps anything."""
    model, images = network(f"resnet{depth}", 16)
    marks = []
    with tool.way(Subject(model, images, torch.arange(16) % 10)) as way:
        for step in range(steps):
            way.run()
            if step in (steps // 3, steps - 1):
                marks.append(resident())
    return (marks[1] - marks[0]) / (steps - 1 - steps // 3)
