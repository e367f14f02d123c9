"""What is recorded of every layer while a network trains: the rows of `dynamics.csv`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from gradlab.errors import UsageError
from gradlab.probes import ParameterGradients, ResponseStd, log_spaced
from gradlab.probes.hooks import RUNS_EAGERLY, unwrap
from gradlab.training.run_folder import DYNAMICS, GrowingTable

COLUMNS = ("step", "layer", "statistic", "value")
RECORDABLE = ("responses", "gradients")
STEPS_PER_DECADE = 20
"""Recorded steps between s and 10 s where they are log-spaced."""


@dataclass(frozen=True)
class Recording:
    """What is recorded of a training, and when.

    Attributes:
        what: Of `responses` (the statistic `response_std`) and `gradients` (`grad_norm`, and `relative`, the
            gradient's norm over the weight's).
        every: Steps between two records, or `log`: ever fewer, evenly spaced on a log axis.

    Raises:
        UsageError: For anything else.
    """

    what: tuple[str, ...]
    every: int | Literal["log"] = 100

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.what) - set(RECORDABLE)):
            raise UsageError(f"what can be recorded is {' and '.join(RECORDABLE)}, not {', '.join(unknown)}")
        if self.every != "log" and (not isinstance(self.every, int) or self.every < 1):
            raise UsageError(f"recording is every so many steps, from 1 on, or log; got {self.every!r}")

    def schedule(self) -> Callable[[int], bool]:
        """Whether a step is recorded, by its number from 0 on."""
        if self.every == "log":
            return log_spaced(STEPS_PER_DECADE)
        every = self.every
        return lambda step: step % every == 0


class DynamicsRecorder:
    """Appends response std and gradient norms of every layer to `dynamics.csv` as a network trains.

    A row belongs to a step's batch, in training mode, and to the weights before that step: step 0 is the
    initialization. A compiled network runs eagerly at steps whose responses are recorded. The training is what it
    would be without.

    Args:
        network: What is trained, compiled or not.
        recording: What and when.
        folder: Of the run.
        length: Bytes of `dynamics.csv` to keep.
        tell: Also given the rows of each recorded step.

    Attributes:
        newest: The rows of the last recorded step.
    """

    def __init__(
        self,
        network: nn.Module,
        recording: Recording,
        folder: Path,
        length: int = 0,
        tell: Callable[[Sequence[dict[str, Any]]], None] | None = None,
    ) -> None:
        self.network, self.recording, self.tell = network, recording, tell
        self.newest: list[dict[str, Any]] = []
        self._due = recording.schedule()
        self._table = GrowingTable(folder / DYNAMICS, COLUMNS, length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._table.close()

    @contextmanager
    def at(self, step: int) -> Iterator[None]:
        """Around the forward and backward pass of a step, before the optimizer's.

        Args:
            step: Optimizer steps made before.
        """
        if not self._due(step):
            yield
            return
        responses = gradients = None
        with ExitStack() as stack:
            if "responses" in self.recording.what:
                # Of the module within: a probe warns of a compiled one, and of a compiled caller; that it runs eagerly
                # is meant here.
                stack.enter_context(warnings.catch_warnings())
                warnings.filterwarnings("ignore", message=f".*{re.escape(RUNS_EAGERLY.partition(':')[2])}")
                responses = stack.enter_context(ResponseStd(unwrap(self.network)))
            if "gradients" in self.recording.what:
                gradients = stack.enter_context(ParameterGradients(self.network))
            yield
            if gradients is not None:
                gradients.step()
        self.newest = [{"step": step, **row} for row in [*_response_rows(responses), *_gradient_rows(gradients)]]
        self._table.append(self.newest)
        if self.tell is not None:
            self.tell(self.newest)

    def state(self) -> dict[str, int]:
        """Bytes of the table so far, for a checkpoint."""
        return {DYNAMICS: self._table.length}


def _response_rows(probe: ResponseStd | None) -> Iterator[dict[str, Any]]:
    for site, (_, _, std, _) in (probe.moments() if probe else {}).items():
        layer = site.layer if site.call == 1 else f"{site.layer} (call {site.call})"
        yield {"layer": layer, "statistic": "response_std", "value": std}


def _gradient_rows(probe: ParameterGradients | None) -> Iterator[dict[str, Any]]:
    for row in probe.rows() if probe else []:
        if row["absent"] is None:
            for statistic in ("grad_norm", "relative"):
                yield {"layer": row["layer"], "statistic": statistic, "value": row[statistic]}
