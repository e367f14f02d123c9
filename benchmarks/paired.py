"""One job done by several tools, each paired with the bare pass.

Each tool works in a process and on a copy of the network of its own, and stays attached over all rounds. A pass with it
runs between two bare ones and is held against their mean, so that a drift of the machine's speed cancels. The clock
counts the process's own seconds, whatever else runs on the machine. A pass that takes more than three times the bare
one runs in a quarter of the rounds, at least in three.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

from benchmarks.apart import FailedApart, apart
from benchmarks.readings import seconds
from benchmarks.table import Row

SLOW = 3.0
"""A tool that takes so many times the bare pass is timed in fewer rounds."""

CLOSE = 1e-4
"""Up to this relative difference two float32 results are the same."""


@dataclass
class Subject:
    """A network and a batch."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor

    def copy(self) -> Subject:
        """The same network with weights of its own."""
        return Subject(copy.deepcopy(self.model), self.inputs, self.labels)

    @property
    def responses(self) -> list[str]:
        """The modules whose outputs are the responses: the normalizations and the classifier."""
        kinds = nn.BatchNorm2d | nn.Linear
        return [name for name, module in self.model.named_modules() if isinstance(module, kinds)]

    @property
    def weights(self) -> list[Tensor]:
        """The weights of the layers, without gains and biases."""
        return [parameter for parameter in self.model.parameters() if parameter.ndim > 1]


@dataclass
class Way:
    """How a tool does a job.

    Attributes:
        run: One pass.
        values: What the passes found, in the order of execution, to be held against gradlab's; None if nothing can be.
        ours: What of gradlab's values it is held against, where these are not the same quantity.
        but: What to know of the values: where the job differs.
    """

    run: Callable[[], object]
    values: Callable[[], Tensor] | None = None
    ours: Callable[[Tensor], Tensor] = lambda values: values
    but: str = ""


@dataclass(frozen=True)
class Tool:
    """gradlab or a peer.

    Attributes:
        name: What it is called.
        way: Takes a subject of its own; attaches on entry, detaches on exit.
        package: The distribution that must be installed; "" for what needs none.
        why: Why a plain install of it may fail.
    """

    name: str
    way: Callable[[Subject], AbstractContextManager[Way]]
    package: str = ""
    why: str = ""

    @property
    def title(self) -> str:
        """The name with the version."""
        try:
            return f"{self.name} {version(self.package)}" if self.package else self.name
        except PackageNotFoundError:
            return self.name

    def missing(self) -> str:
        """Why it cannot be measured: "" if its distribution is installed."""
        try:
            if self.package:
                version(self.package)
        except PackageNotFoundError:
            return f"not installed: {self.package}{f', which {self.why}' if self.why else ''}"
        return ""


@dataclass(frozen=True)
class Job:
    """What is done, by gradlab first and then by its peers.

    Attributes:
        name: For the table.
        subject: Makes the network and its batch.
        bare: The pass that costs are held against, on a subject.
        tools: gradlab's way, whose values are the reference, and those of the peers.
        goal: What gradlab should not exceed.
        training: Whether passes need gradients.
        layers: By how many layers to divide what a pass takes beyond the bare one, in µs; None for ratios.
        reference: Whose values are right, where not those of gradlab's way here.
        times: By how much to multiply the rounds, where a pass is short.
    """

    name: str
    subject: Callable[[], Subject]
    bare: Callable[[Subject], Callable[[], object]]
    tools: tuple[Tool, ...]
    goal: float | None = None
    training: bool = False
    layers: int | None = None
    reference: Tool | None = None
    times: int = 1

    def rows(self, rounds: int, known: Sequence[Row] = ()) -> Iterator[Row]:
        """Measure every tool in turn, except those whose rows are known."""
        return each(self.name, self.tools, partial(self.row, rounds), known)

    def row(self, rounds: int, tool: Tool) -> Row:
        """What a tool costs."""
        number, subject = self.tools.index(tool), self.subject()
        with torch.set_grad_enabled(self.training):
            ours = self._reference(subject.copy()) if number or self.reference else None
            with tool.way(subject.copy()) as way:
                bare, probed = paired(self.bare(subject.copy()), way.run, rounds * self.times)
                agrees = "the reference" if ours is None else agreement(way, ours)
        pairs, goal = [*zip(bare, probed, strict=True)], None if number else self.goal
        if self.layers is None:
            return Row.of(self.name, tool.title, [inner / outer for outer, inner in pairs], "", goal, agrees)
        beyond = [(inner - outer) / self.layers * 1e6 for outer, inner in pairs]
        return Row.of(self.name, tool.title, beyond, "µs", goal, agrees)

    def _reference(self, subject: Subject) -> Tensor:
        """What gradlab finds."""
        with (self.reference or self.tools[0]).way(subject) as way:
            way.run()
            assert way.values is not None
            return way.values().double()


def each(job: str, tools: Sequence[Tool], row: Callable[[Tool], Row], known: Sequence[Row]) -> Iterator[Row]:
    """The rows of a job, each measured in a process of its own; a tool that is missing or fails has one that says so.

    Args:
        job: The job's name.
        tools: The tools that do it.
        row: Measures one.
        known: Rows that were measured before, of any job.
    """
    measured = {row.by: row for row in known if row.job == job and row.median is not None}
    for tool in tools:
        if tool.title in measured:
            yield measured[tool.title]
            continue
        print(f"{job}: {tool.title}", file=sys.stderr, flush=True)
        if reason := tool.missing():
            yield Row(job, tool.name, agrees=reason)
            continue
        try:
            yield apart(partial(row, tool))
        except FailedApart as failure:
            yield Row(job, tool.title, agrees=f"failed: {failure}")


def paired(bare: Callable[[], object], run: Callable[[], object], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the bare pass, the mean of one before and one after, and of the pass between; after two of each."""
    for _ in range(2):
        before, first = seconds(bare), seconds(run)
    if first > SLOW * before:
        rounds = max(3, rounds // 4)
    means, probed = [], []
    before = seconds(bare)
    for _ in range(rounds):
        inner, after = seconds(run), seconds(bare)
        means.append((before + after) / 2)
        probed.append(inner)
        before = after
    return means, probed


def agreement(way: Way, ours: Tensor) -> str:
    """Whether the results of a way are those of gradlab, number for number, in words."""
    if way.values is None:
        return way.but
    theirs, ours = way.values().double(), way.ours(ours)
    if ours.shape != theirs.shape:
        same = f"no: {theirs.numel()} numbers, not {ours.numel()}"
    else:
        largest = float(((theirs - ours).abs() / ours.abs().clamp(min=torch.finfo(torch.float32).tiny)).max())
        same = f"yes, to {largest:.0e}" if largest <= CLOSE else f"no: up to {largest:.2g} × apart"
    return f"{same}; {way.but}" if way.but else same
