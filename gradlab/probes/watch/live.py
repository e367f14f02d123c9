"""The newest record of a watch on a few lines: in a terminal, in a notebook, or line by line."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any, Protocol

from gradlab.results.dynamics.strip import History, ends, strip
from gradlab.sinks import Row

SHOWN = {"grad_norm": "gradient norms", "response_std": "stds of responses", "update_ratio": "updates / weight norms"}
"""The statistics of layers that are shown, if they are recorded."""

TOTALS = {"loss": "loss", "learning_rate": "learning rate", "grad_norm": "gradient norm"}
"""Those of the whole model."""

_REDRAWN_SECONDS = 0.25
_LINE_SECONDS = 10.0


class Screen(Protocol):
    """Where lines of text are shown, each time in place of those before."""

    @property
    def seconds(self) -> float:
        """The least time between two updates."""

    def show(self, lines: Sequence[str]) -> None:
        """Show lines."""

    def close(self) -> None:
        """Leave the last lines where they are."""


class LiveView:
    """A sink that shows each record: losses so far, and statistics of all layers as strips of blocks.

    It has what records have, and draws when one is written, at most four times a second; nothing waits for the device.

    Args:
        network: What to call the model.
        screen: Where to show it; by default a terminal, a notebook, or else lines on standard error, which say so.
        clock: The time in seconds.
    """

    def __init__(self, network: str, screen: Screen | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.network = network
        self._screen = screen or screen_here()
        self._clock = clock
        self._shown = -math.inf
        self._losses = History()
        self._records = 0
        self._rows: Sequence[Row] = ()
        self._pending = False

    def write(self, rows: Sequence[Row], /) -> None:
        """Take in a record, and show it if the last one has been there for long enough."""
        self._rows, self._pending = rows, True
        self._records += 1
        for row in rows:
            if row["statistic"] == "loss" and row["index"] == 0:
                self._losses.add(row["value"])
        if self._clock() - self._shown >= self._screen.seconds:
            self._show()

    def close(self) -> None:
        """Show the last record, and leave it there."""
        if self._pending:
            self._show()
        self._screen.close()

    def lines(self) -> Iterator[str]:
        """The newest record in words and strips."""
        totals = {row["statistic"]: row["value"] for row in self._rows if row["index"] == 0}
        said = [f"{title} {totals[name]:.4g}" for name, title in TOTALS.items() if name in totals]
        records = f"{self._records:,} record{'s' if self._records > 1 else ''}"
        yield "  ".join([self.network, f"step {self._rows[0]['step']:,}", *said, records])
        if len(self._losses.values) > 1:
            yield f"loss {strip(self._losses.values)}"
        for statistic, title in SHOWN.items():
            values = {r["layer"]: r["value"] for r in self._rows if r["statistic"] == statistic and r["index"] > 0}
            if values:
                yield f"{title} of {len(values)} layers, log scale: {ends(values)}"
                yield strip(list(values.values()))

    def _show(self) -> None:
        self._screen.show(list(self.lines()))
        self._shown, self._pending = self._clock(), False


def screen_here() -> Screen:
    """A notebook, a terminal on standard error, or lines on it."""
    if in_notebook():
        return NotebookScreen()
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return TerminalScreen(console)
    return LineScreen(console, "neither a terminal nor a notebook is here")


def in_notebook() -> bool:
    """Whether this runs in a kernel of a notebook, which can update what it displays."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class TerminalScreen:
    """Lines that are redrawn in place, below what the program prints.

    Args:
        console: A terminal.
    """

    def __init__(self, console: Any) -> None:
        from rich.live import Live

        self.seconds = _REDRAWN_SECONDS
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")
        self._lines: LineScreen | None = None

    def show(self, lines: Sequence[str]) -> None:
        """Redraw the lines; print them if the terminal has another display, as in some versions of rich it may not."""
        from rich.errors import LiveError
        from rich.text import Text

        if not self._live.is_started and self._lines is None:
            try:
                self._live.start()
            except LiveError:
                self._lines = LineScreen(self._live.console, "the terminal has another live display")
                self.seconds = self._lines.seconds
        if self._lines is not None:
            self._lines.show(lines)
        else:
            self._live.update(Text("\n".join(lines), overflow="fold"), refresh=True)

    def close(self) -> None:
        """Leave the last lines in the terminal."""
        if self._live.is_started:
            self._live.stop()


class NotebookScreen:
    """An output of a cell that is updated."""

    seconds = _REDRAWN_SECONDS

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, lines: Sequence[str]) -> None:
        """Update the output."""
        from IPython.display import HTML, display

        style = "line-height: 1.2; white-space: pre-wrap; word-break: break-all"
        page = HTML(f'<pre style="{style}">{escape(chr(10).join(lines))}</pre>')
        if self._handle is None:
            self._handle = display(page, display_id=True)
        else:
            self._handle.update(page)

    def close(self) -> None:
        """Leave the last output in the cell."""


class LineScreen:
    """One line at a time, where nothing can be redrawn; the first says so.

    Args:
        console: Where to.
        reason: Why.
    """

    seconds = _LINE_SECONDS

    def __init__(self, console: Any, reason: str) -> None:
        self._console = console
        self._print(f"live: {reason}; a line is printed for a record, at most one every {_LINE_SECONDS:g} seconds")

    def show(self, lines: Sequence[str]) -> None:
        """Print the first line."""
        self._print(lines[0])

    def close(self) -> None:
        """Do nothing: all is printed."""

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, markup=False)
