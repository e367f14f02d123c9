"""A figure of the gallery: what the paper claims with it, what to measure for it, and how to draw it."""

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
    """What a figure needs is not here: weights, runs, data."""


def _figure(result: Any) -> Drawing:
    drawing: Drawing = result.figure()
    return drawing


def _frame(result: Result) -> pd.DataFrame:
    return result.frame


@dataclass(frozen=True)
class Figure:
    """One figure of the gallery.

    Attributes:
        name: Of its files.
        paper: Where the figure is from.
        figure: Which figure of the paper.
        title: What it shows, in a few words.
        claim: What the paper says that it shows.
        command: The gradlab command that measures the same, with its switches, without the other options of the
            measurement.
        experiment: The function of the public interface that the command calls.
        options: Its arguments, from what is at hand; raises `NotAtHand` where something is missing.
        toy: Arguments that make it small enough for a test; with `models` or `runs` among them nothing
            need be at hand of what the figure itself needs.
        draw: From the result to the figure.
        table: From the result to the rows of the CSV.
        differs: What is not as in the paper, a sentence each.
        arguments: Options that the command takes as arguments, without a name.
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
        """Why the figure cannot be built here; None when it can."""
        try:
            self.options()
        except NotAtHand as reason:
            return str(reason)
        return None

    def small(self) -> dict[str, Any]:
        """The arguments at toy size."""
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
            options: What to measure.
            **running: How: device and progress; an experiment that computes nothing takes neither.
        """
        accepted = inspect.signature(self.experiment).parameters
        return self.experiment(**options, **{name: value for name, value in running.items() if name in accepted})
