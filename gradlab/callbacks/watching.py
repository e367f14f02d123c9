"""A watch that goes along with another library's training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes import Schedule
from gradlab.probes.watch import Watch
from gradlab.results.dynamics.result import DynamicsResult
from gradlab.sinks import AnySink, Row, scalars_by_step

if TYPE_CHECKING:
    from torch.optim import Optimizer

Logged = Literal["all", "total", "nothing"]
"""Which values go into the library's own logs: those of all layers, of the whole model, or none."""


class AttachedWatch:
    """Holds a watch between the start and the end of training.

    Args:
        logged: What goes into the library's own logs.
        sinks: Who else gets the rows.
        options: Of `gl.watch`.

    Raises:
        UsageError: For another word.
    """

    def __init__(self, logged: Logged, sinks: Iterable[AnySink], options: Mapping[str, Any]) -> None:
        if logged not in ("all", "total", "nothing"):
            raise UsageError(f"log is all, total or nothing, not {logged!r}")
        self.logged, self.sinks, self.options = logged, list(sinks), options
        self.watch: Watch | None = None
        self._attached = False

    def attach(
        self,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        steps: int,
        log: Callable[[dict[str, float], int], None],
    ) -> None:
        """Make the watch and put it on.

        Args:
            model: What is trained.
            optimizers: What trains it.
            steps: Steps made so far.
            log: Called with values by name, and their step.
        """
        self.detach()

        def write(rows: Sequence[Row]) -> None:
            chosen = [row for row in rows if self.logged == "all" or not row["index"]]
            for step, values in scalars_by_step(chosen).items():
                log(values, step)

        own = [] if self.logged == "nothing" else [write]
        self.watch = Watch(model, optimizers, **self.options, sinks=[*own, *self.sinks], start=steps)
        self.watch.__enter__()
        self._attached = True

    def detach(self) -> None:
        """Take the watch off; nothing happens when it is off."""
        if self.watch is not None and self._attached:
            self._attached = False
            self.watch.__exit__(None, None, None)

    def result(self, network: str | None = None) -> DynamicsResult:
        """What was recorded so far.

        Args:
            network: What to call the model.

        Raises:
            GradlabError: Before training has started, or when nothing was measured.
        """
        if self.watch is None:
            raise GradlabError("training has not started: there is nothing recorded yet")
        return self.watch.result(network)


class WatchingCallback:
    """The part of a callback with a watch that does not depend on whose training loop calls it.

    Args:
        every: As in `gl.watch`.
        log: What goes into the library's own logs.
        sinks: Who else gets the rows.
        options: Further arguments of `gl.watch`.
    """

    def __init__(self, every: Schedule, log: Logged, sinks: Iterable[AnySink], options: Mapping[str, Any]) -> None:
        self._attached = AttachedWatch(log, sinks, {"every": every, **options})

    def close(self) -> None:
        """Take the watch off; nothing happens if it is off."""
        self._attached.detach()

    def result(self, network: str | None = None) -> DynamicsResult:
        """Return what was recorded so far.

        Args:
            network: What to call the model.

        Raises:
            GradlabError: Before training has started, or when nothing was measured.
        """
        return self._attached.result(network)
