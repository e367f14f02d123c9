"""The display of a training: a live view in a terminal, plain lines elsewhere."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from gradlab.results.dynamics.strip import ends, strip

from .console import notes
from .processes import is_first

if TYPE_CHECKING:
    from gradlab.training import Status


@contextmanager
def training_view(quiet: bool, batch_size: int) -> Iterator[dict[str, Any]]:
    """A display on stderr, as the arguments `observe` and `progress` of `gl.train`.

    Args:
        quiet: Whether to show nothing.
        batch_size: The number of images per step.
    """
    console = notes()
    if quiet or not is_first():
        yield {}
    elif console.is_terminal and not console.is_dumb_terminal:
        view = LiveView(console, batch_size)
        with Live(get_renderable=view.render, console=console, refresh_per_second=4):
            yield {"observe": view.observe, "progress": view.progress}
    else:
        lines = Lines(console)
        yield {"observe": lines.observe, "progress": lines.progress}


class Lines:
    """One line for every evaluation of the loss."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.network = ""

    def progress(self, network: str, done: int, total: int) -> None:
        """Called at every step."""
        self.network = network

    def observe(self, status: "Status") -> None:
        """Called at every evaluation of the loss."""
        row = status.metrics
        tested = f"  test {row['test_loss']:.4f} {row['test_error']:.2%}" if "test_error" in row else ""
        self.console.print(
            f"{self.network}  step {status.step:,}/{status.steps:,}  epoch {row['epoch']:.1f}  rate "
            f"{row['learning_rate']:.4g}  train {row['train_loss']:.4f} {row['train_error']:.2%}{tested}  "
            f"{status.images_per_second:,.0f} examples/s",
            soft_wrap=True,
        )


class LiveView:
    """Progress, throughput, loss and error, and every layer's gradient norm, on a few lines that are updated.

    Args:
        console: The console of the view, which also gets one permanent line for every network except the last.
        batch_size: The number of images per step.
    """

    def __init__(self, console: Console, batch_size: int) -> None:
        self.console, self.batch_size = console, batch_size
        self.network: str | None = None
        self.task: TaskID | None = None
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            expand=True,
        )
        self._begin()

    def _begin(self) -> None:
        self.row: dict[str, float] = {}
        self.test: dict[str, float] = {}
        self.recorded: list[Mapping[str, Any]] = []

    def progress(self, network: str, done: int, total: int) -> None:
        """Called at every step."""
        if network != self.network or self.task is None:
            if self.task is not None:
                self.bar.remove_task(self.task)
                errors = {"training": self.row.get("train_error"), "test": self.test.get("test_error")}
                said = ", ".join(f"{name} error {share:.2%}" for name, share in errors.items() if share is not None)
                self.console.print(f"{self.network}: {said}")
            self.network = network
            self.task = self.bar.add_task(network, total=total, completed=done, rate="")
            self._begin()
        speed = self.bar.tasks[0].speed
        rate = "" if not speed else f"{speed * self.batch_size:,.0f} examples/s"
        self.bar.update(self.task, completed=done, rate=rate)

    def observe(self, status: "Status") -> None:
        """Called at every evaluation of the loss."""
        self.row = status.metrics
        if "test_error" in self.row:
            self.test = self.row
        self.recorded = list(status.recorded)

    def render(self) -> Group:
        """The current contents of the view."""
        if self.task is None:
            return Group(Text("reading the data …", style="dim"))
        return Group(self.bar, *self._losses(), *gradient_strip(self.recorded))

    def _losses(self) -> Iterator[Text]:
        if not self.row:
            return
        yield Text(
            f"epoch {self.row['epoch']:.1f}   learning rate {self.row['learning_rate']:.3g}   "
            f"training loss {self.row['train_loss']:.4f}, error {self.row['train_error']:.2%}"
        )
        if self.test:
            loss, error, epoch = (self.test[key] for key in ("test_loss", "test_error", "epoch"))
            yield Text(f"test loss {loss:.4f}, error {error:.2%} after epoch {epoch:.3g}")


def gradient_strip(recorded: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """One block per layer, with its gradient norm as height on a log scale, and the names of lowest and highest.

    Args:
        recorded: The rows of `dynamics.csv` of one step.
    """
    norms = {
        row["layer"]: row["value"] for row in recorded if row["statistic"] == "grad_norm" and row["layer"] != "total"
    }
    if not any(norm > 0 and math.isfinite(norm) for norm in norms.values()):
        return
    yield Text(f"gradient norms of {len(norms)} layers at step {recorded[0]['step']:,}, log scale", style="dim")
    yield Text(strip(list(norms.values())), style="cyan", overflow="fold")
    yield Text(ends(norms), style="dim")
