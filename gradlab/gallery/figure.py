"""A figure of the gallery: the paper's claim, the measurement and the drawing."""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.results.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Options = Mapping[str, Any]


class NotAtHand(GradlabError):
    """Raised if weights, runs or data for a figure are missing."""


def _figure(result: Any) -> Drawing:
    drawing: Drawing = result.figure()
    return drawing


def _frame(result: Result) -> pd.DataFrame:
    return result.frame


@dataclass(frozen=True)
class Figure:
    """One figure of the gallery.

    Attributes:
        name: The name of its files.
        paper: The paper of the figure.
        figure: The number of the figure in the paper.
        title: A short title.
        claim: The claim of the paper.
        command: The gradlab command of the measurement with its switches, without the other options.
        experiment: The function of the public interface that the command calls.
        options: A function that returns the arguments for the available data, and raises `NotAtHand` if something is
            missing.
        toy: The arguments that make the figure small enough for a test; if `models` or `runs` is among them, the data
            of the figure is not needed.
        draw: A function from the result to the figure.
        table: A function from the result to the rows of the CSV.
        differs: The differences from the paper, one sentence each.
        arguments: The options that the command takes as positional arguments.
    """

    name: str
    paper: str
    figure: str
    title: str
    claim: str
    command: tuple[str, ...]
    experiment: Callable[..., Result]
    options: Callable[[], Options]
    toy: Options
    draw: Callable[[Any], Drawing] = _figure
    table: Callable[[Any], pd.DataFrame] = _frame
    differs: Sequence[str] = ()
    arguments: Sequence[str] = ()

    def missing(self) -> str | None:
        """The reason why the figure cannot be built here; None if it can."""
        try:
            self.options()
        except NotAtHand as reason:
            return str(reason)
        return None

    def small(self) -> dict[str, Any]:
        """The arguments for toy size."""
        return {**({} if {"models", "runs"} & self.toy.keys() else self.options()), **self.toy}

    def command_line(self, options: Options) -> str:
        """The command that measures with these options: `gradlab shatter --depths 2,4 …`."""
        words = ["gradlab", *self.command]
        for name, value in options.items():
            if isinstance(value, bool):
                continue
            listed = list(map(str, value if isinstance(value, list | tuple) else [value]))
            option = "--model" if name == "models" else f"--{name.replace('_', '-')}"
            words += listed if name in self.arguments else [option, ",".join(listed)]
        return shlex.join(words)

    def measure(self, options: Options, **running: Any) -> Result:
        """Run the experiment.

        Args:
            options: The arguments of the measurement.
            **running: Device and progress, which an experiment without computation does not take.
        """
        accepted = inspect.signature(self.experiment).parameters
        return self.experiment(**options, **{name: value for name, value in running.items() if name in accepted})
