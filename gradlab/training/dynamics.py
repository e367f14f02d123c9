"""What is recorded of every layer while a network trains: the rows of `dynamics.csv`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

from torch import nn
from torch.optim import Optimizer

from gradlab.errors import UsageError
from gradlab.probes import log_spaced
from gradlab.probes.hooks import RUNS_EAGERLY
from gradlab.probes.watch import MEASURES, Measure, Watch
from gradlab.training.run_folder import DYNAMICS, GrowingTable

COLUMNS = ("step", "layer", "index", "block", "statistic", "value")
FIRST_COLUMNS = ("step", "layer", "statistic", "value")
"""Those of runs that began before there were the others."""

RECORDABLE = MEASURES
STEPS_PER_DECADE = 20
"""Recorded steps between s and 10 s where they are log-spaced."""


@dataclass(frozen=True)
class Recording:
    """What is recorded of a training, and when.

    Attributes:
        what: Of the groups of statistics that `gl.watch` measures: `responses`, `activations`, `response_gradients`,
            `gradients`, `updates` and `noise`.
        every: Steps between two records, or `log`: ever fewer, evenly spaced on a log axis.

    Raises:
        UsageError: For anything else.
    """

    what: tuple[str, ...]
    every: int | Literal["log"] = 100

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.what) - set(RECORDABLE)):
            raise UsageError(f"what can be recorded is {', '.join(RECORDABLE)}, not {', '.join(unknown)}")
        if self.every != "log" and (not isinstance(self.every, int) or self.every < 1):
            raise UsageError(f"recording is every so many steps, from 1 on, or log; got {self.every!r}")

    def schedule(self) -> Callable[[int], bool]:
        """Whether a step is recorded, by its number from 0 on."""
        if self.every == "log":
            return log_spaced(STEPS_PER_DECADE)
        every = self.every
        return lambda step: step % every == 0


class DynamicsRecorder:
    """Appends what `gl.watch` measures to `dynamics.csv` as a network trains.

    A row belongs to a step's batch, in training mode, and to the weights before that step: step 0 is the
    initialization. A compiled network runs eagerly at steps whose responses are recorded. The training is what it
    would be without.

    Args:
        network: What is trained, compiled or not.
        optimizer: What trains it.
        recording: What and when.
        folder: Of the run.
        length: Bytes of `dynamics.csv` to keep.
        start: Steps made so far.
        tell: Also given the rows of each recorded step.
        writes: Whether this process writes the table, as the first of several does.

    Attributes:
        newest: The rows of the last recorded step.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        recording: Recording,
        folder: Path,
        *,
        length: int = 0,
        start: int = 0,
        tell: Callable[[Sequence[Mapping[str, Any]]], None] | None = None,
        writes: bool = True,
    ) -> None:
        self.newest: Sequence[Mapping[str, Any]] = ()
        self._tell = tell
        path = folder / DYNAMICS
        self._columns = _columns_of(path) if length else COLUMNS
        self._table = GrowingTable(path, self._columns, length) if writes else None
        self._watch = Watch(
            network,
            optimizer,
            recording.schedule(),
            measure=cast("Sequence[Measure]", recording.what),
            sinks=[self.write],
            start=start,
        )
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            if self._table is not None:
                stack.callback(self._table.close)
            # That a compiled network runs eagerly at recorded steps is meant here.
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message=f".*{re.escape(RUNS_EAGERLY.partition(':')[2])}")
            stack.enter_context(self._watch)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the rows of a step; see `gl.watch`."""
        self.newest = rows
        if self._table is None:
            return
        self._table.append({name: row[name] for name in self._columns} for row in rows)
        if self._tell is not None:
            self._tell(rows)

    def state(self) -> dict[str, int]:
        """Bytes of the table so far, for a checkpoint."""
        return {} if self._table is None else {DYNAMICS: self._table.length}


def _columns_of(path: Path) -> tuple[str, ...]:
    """The columns of a table that a run goes on with."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            header = file.readline().rstrip("\n")
    except OSError:
        return COLUMNS
    return FIRST_COLUMNS if header == ",".join(FIRST_COLUMNS) else COLUMNS
