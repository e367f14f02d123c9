"""The live view: what it shows, when, where, and that it does not disturb the training."""

import io
import itertools
import math
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import gradlab as gl
from gradlab.probes.watch.live import LineScreen, LiveView, NotebookScreen, TerminalScreen, screen_here
from gradlab.results.dynamics.strip import History, ends, strip


class Shown:
    """A screen that keeps what it is to show."""

    seconds = 1.0

    def __init__(self) -> None:
        self.updates: list[list[str]] = []
        self.closed = False

    def show(self, lines: Sequence[str]) -> None:
        self.updates.append(list(lines))

    def close(self) -> None:
        self.closed = True


def record(step: int, norms: dict[str, float], loss: float = 1.0) -> list[dict[str, Any]]:
    rows = [
        {"step": step, "layer": layer, "index": place, "block": "", "statistic": "grad_norm", "value": value}
        for place, (layer, value) in enumerate(norms.items(), 1)
    ]
    return [*rows, {"step": step, "layer": "total", "index": 0, "block": "", "statistic": "loss", "value": loss}]


def test_the_newest_record_is_shown_at_most_once_a_second_and_at_the_end() -> None:
    screen, times = Shown(), itertools.count(0.0, 0.25)
    view = LiveView("net", screen, lambda: next(times))
    for step in range(20):
        view.write(record(step, {"a": 1.0, "b": 10.0**7, "dead": 0.0}, loss=1 / (1 + step)))
    view.close()
    assert len(screen.updates) < 10
    assert screen.closed
    head, losses, title, blocks = screen.updates[-1]
    assert head == "net  step 19  loss 0.05  20 records"
    assert losses == f"loss {strip([1 / (1 + step) for step in range(20)])}"
    assert title == "gradient norms of 3 layers, log scale: lowest 1 in a, highest 1e+07 in b; 1 exactly 0"
    assert blocks == "▁█×"


@pytest.mark.parametrize("spike", [0, 1, 4567, 9998])
def test_a_spike_stays_in_a_history_of_bounded_length(spike: int) -> None:
    history = History(room=64)
    for place in range(9999):
        history.add(1e6 if place == spike else 1.0 + place / 1e5)
    assert 32 <= len(history.values) <= 64
    assert max(history.values) == 1e6
    assert history.values.index(1e6) == pytest.approx(spike / 9999 * len(history.values), abs=2)
    history.add(math.nan)
    assert history.values[-1] == math.inf


def test_strips_of_what_has_no_logarithm() -> None:
    assert strip([]) == ""
    assert strip([0.0, math.nan, math.inf, -1.0]) == "××××"
    assert strip([2.0, 2.0]) == "▁▁"
    assert ends({"a": math.nan, "b": 0.0}) == "1 exactly 0; 1 not finite"


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def train(net: nn.Sequential, steps: int = 3) -> gl.DynamicsResult:
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with gl.watch(net, optimizer, every=1, live=True) as watch:
        for _ in range(steps):
            optimizer.zero_grad()
            net(torch.ones(4, 8)).square().sum().backward()
            optimizer.step()
    return watch.result()


def test_without_a_terminal_it_says_so_and_prints_lines(net: nn.Sequential, capsys: pytest.CaptureFixture[str]) -> None:
    train(net)
    said = capsys.readouterr()
    assert said.out == ""
    notice, *lines = said.err.splitlines()
    assert notice.startswith("live: neither a terminal nor a notebook is here; a line is printed for a record")
    # The first record, and the last, which the end of the block shows.
    assert [line.split("  ")[:2] for line in lines] == [["Sequential", "step 0"], ["Sequential", "step 2"]]


@pytest.mark.parametrize("width", [40, 120])
def test_a_terminal_of_any_width(width: int, net: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    console = Console(file=file, width=width, height=30, force_terminal=True, color_system=None, legacy_windows=False)
    monkeypatch.setattr("gradlab.probes.watch.live.screen_here", lambda: TerminalScreen(console))
    train(net)
    text = file.getvalue()
    assert "gradient norms of 2 layers" in " ".join(text.split())
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor is hidden and shown again"
    assert not console._live_stack if hasattr(console, "_live_stack") else console._live is None


def test_an_exception_in_the_loop_gives_the_terminal_back(net: nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Shown()
    monkeypatch.setattr("gradlab.probes.watch.live.screen_here", lambda: screen)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    watch = gl.watch(net, optimizer, every=1, live=True)

    def fail() -> None:
        with watch:
            net(torch.ones(4, 8)).sum().backward()
            optimizer.step()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert screen.closed
    assert screen.updates


def test_a_notebook_has_one_output_that_is_updated(monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    pages: list[str] = []
    handle = types.SimpleNamespace(update=lambda page: pages.append(page.data))

    def show(page: Any, display_id: bool) -> Any:
        assert display_id
        pages.append(page.data)
        return handle

    monkeypatch.setattr(display, "display", show)
    monkeypatch.setattr(sys.modules["IPython"], "get_ipython", lambda: types.SimpleNamespace(kernel=object()))
    screen = screen_here()
    assert isinstance(screen, NotebookScreen)
    view = LiveView("a<b", screen, itertools.count(0.0, 1.0).__next__)
    view.write(record(0, {"a": 1.0}))
    view.write(record(1, {"a": 2.0}))
    view.close()
    assert len(pages) == 2
    assert all(page.startswith("<pre") and "a&lt;b" in page for page in pages)


def test_another_display_in_the_terminal_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.errors import LiveError
    from rich.live import Live

    def refuse(self: Live, refresh: bool = False) -> None:
        raise LiveError("Only one live display may be active at once")

    monkeypatch.setattr(Live, "start", refuse)
    file = io.StringIO()
    screen = TerminalScreen(Console(file=file, force_terminal=True, color_system=None, width=200))
    screen.show(["step 1", "more"])
    screen.close()
    assert file.getvalue().splitlines()[0].startswith("live: the terminal has another live display; a line is printed")
    assert file.getvalue().splitlines()[1] == "step 1"
    assert screen.seconds == LineScreen.seconds


def test_the_training_is_what_it_is_without_a_view(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradlab.probes.watch.live.screen_here", Shown)
    weights = []
    for live in (False, True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with gl.watch(net, optimizer, every=2, live=live):
            for _ in range(5):
                optimizer.zero_grad()
                net(torch.ones(4, 8)).square().sum().backward()
                optimizer.step()
        weights.append(net[0].weight.detach().clone())
    assert torch.equal(*weights)
