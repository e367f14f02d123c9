"""In which passes functions are looked at, which takes longer than the rest of a probe's work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.probes.applications import Applications
from gradlab.probes.hooks import in_backward
from gradlab.probes.pass_kinds import form_of, modes_of, state_reader
from gradlab.probes.weight_watch import WeightWatch
from gradlab.probes.weights import WeightRow

_KINDS = 1000
"""The number of kinds of passes that are told apart; a model that counts its passes makes a kind of each."""

_FIRST = 16
"""Which of the passes that are alike is the first in which functions are looked at again."""

_MISSED = (
    "functions of torch apply a weight or normalize a response in a pass like earlier ones, in which they were not "
    "looked at: what they gave there may be missing; tell such passes apart by a flag or an argument of the model, or "
    "have a layer do it"
)


class Listening:
    """Looks at functions from the beginning of a pass, or from where one receives a weight for the first time.

    If no function has applied a weight or normalized a response in one pass, others with the same flags and modes are
    alike. In these the weights are watched instead: what a function does with one for the first time is seen as well,
    whatever has led to it. What this does not show, a view of a weight that was taken before the pass or a
    normalization of a response, is looked for in some of them: the 16th, the 64th, the 256th, and so on.

    Args:
        model: The root module.
        applications: The mode that looks at functions.
        is_called: Whether the module that applies a weight is being called.
        in_pass: Whether a pass is under way, at a function that has received a weight.
    """

    def __init__(
        self,
        model: nn.Module,
        applications: Applications,
        is_called: Callable[[WeightRow], bool],
        in_pass: Callable[[], bool],
    ) -> None:
        self._applications, self._is_called, self._in_pass = applications, is_called, in_pass
        self._watch = WeightWatch(self._sound)
        self._state = state_reader(model)
        self._kind: tuple[object, ...] = ()
        self._thread = get_ident()
        # Whether what functions do in this pass was noticed by the weights themselves.
        self._sounded = False
        # The kinds of passes that are alike, and how many passes of each were.
        self._alike: dict[object, int] = {}
        self._passed_by: set[object] = set()
        # The weights that functions receive and do not apply, such as positions that are added to the signal.
        self._received: set[tuple[str, str]] = set()

    def begin(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Begin a pass of a module."""
        self._thread = get_ident()
        self._sounded = False
        self._kind = name, modes_of(module), form_of(args), form_of(kwargs), self._state()
        if not self._applications.rows:
            return
        # All passes of a trace are to leave the same names in its graph.
        alike = self._kind in self._alike and torch._C._get_tracing_state() is None
        if alike:
            self._alike[self._kind] += 1
            alike = not _is_looked_at(self._alike[self._kind]) and self._applications.is_plain()
        if alike and self._watch.start(self._applications.weights()):
            self._passed_by.add(self._kind)
        else:
            self._applications.enter()

    def end(self, whole: bool, by_functions: bool) -> None:
        """End the pass, and note whether functions are to be looked at in others like it.

        Args:
            whole: Whether the pass was completed.
            by_functions: Whether functions have applied weights or normalized responses, or may have.
        """
        self.stop()
        if whole and not by_functions:
            if len(self._alike) < _KINDS:
                self._alike.setdefault(self._kind, 0)
            return
        self._alike.pop(self._kind, None)
        if whole and self._kind in self._passed_by and not self._sounded:
            self._passed_by.clear()
            warnings.warn(_MISSED, stacklevel=2)

    def stop(self) -> None:
        """Look at nothing any more."""
        self._watch.stop()
        self._applications.leave()

    def received(self, rows: Iterable[WeightRow], function: str) -> None:
        """Note that a function has received weights that it does not apply."""
        self._received.update((row.name, function) for row in rows)

    def _sound(self, weight: Tensor, function: str) -> None:
        """Look at functions for the rest of the pass, since one has received a weight outside of its layer."""
        if get_ident() != self._thread or not self._in_pass():
            # Others read weights at any time, as averages and checkpoints do.
            return
        rows = self._applications.rows_in(weight)
        known = any(map(self._is_called, rows)) or all((row.name, function) in self._received for row in rows)
        if not known and not in_backward():
            self._watch.stop()
            self._sounded = True
            self._applications.enter()


def _is_looked_at(number: int) -> bool:
    """Return whether functions are looked at in a pass like others, which is the `number`th of them."""
    return number >= _FIRST and number & (number - 1) == 0 and number.bit_length() % 2 == 1
