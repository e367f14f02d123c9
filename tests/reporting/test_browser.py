"""The HTML report in a real browser: a headless Chromium, driven over its DevTools pipe."""

import base64
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import gradlab as gl

SCRIPT = "<script>alert('x')</script>"

PATIENCE_SECONDS = 60.0

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
    "about:blank",
]


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


class Page:
    """A page that has loaded, and what happened in it."""

    def __init__(self, browser: "Chromium", session: str) -> None:
        self._browser, self._session = browser, session

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.send(method, session=self._session, **params)

    def evaluate(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def events(self, *methods: str) -> list[dict[str, Any]]:
        happened = [event for event in self._browser.events if event.get("sessionId") == self._session]
        return [event["params"] for event in happened if event["method"] in methods]

    def screenshot(self, path: Path) -> Path:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
        return path


class Chromium:
    """The browser's end of the pipe: messages are JSON, each ended by a zero byte."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes
        self._buffer, self._last = b"", 0
        self.events: list[dict[str, Any]] = []

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path: Path, *, width: int = 1000, height: int = 800, dark: bool = False) -> Page:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.send("Emulation.setEmulatedMedia", features=[scheme])
        page.send("Page.navigate", url=path.absolute().as_uri())
        while not page.events("Page.loadEventFired"):
            self.events.append(self._receive())
        return page

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reads], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(self._reads, 1 << 20) if ready else b""
            if not more:
                raise RuntimeError("Chromium says nothing more")
            self._buffer += more
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def run_chromium(command: str, profile: Path) -> Iterator[Chromium]:
    """Start a browser with an empty profile, and end it."""
    (its_input, writes), (reads, its_output) = os.pipe(), os.pipe()

    def take_the_pipe() -> None:
        # Chromium reads file descriptor 3 and writes 4, whatever stood there; copies first, since they may overlap.
        source, sink = os.dup(its_input), os.dup(its_output)
        os.dup2(source, 3)
        os.dup2(sink, 4)

    process = subprocess.Popen(
        [command, f"--user-data-dir={profile}", *FLAGS],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=take_the_pipe,
        close_fds=False,
    )
    os.close(its_input)
    os.close(its_output)
    browser = Chromium(reads, writes)
    try:
        yield browser
        browser.send("Browser.close")
        process.wait(PATIENCE_SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(reads)
        os.close(writes)


def responses_of(stds: dict[str, float]) -> gl.ResponsesResult:
    """Networks of one layer each."""
    row = {"layer": "conv", "index": 1, "kind": "conv3x3", "mean": 0.0, "count": 9, "stride": 1, "non_finite": 0}
    return gl.ResponsesResult.concat(
        gl.ResponsesResult.from_rows(name, [{**row, "std": std, "predicted_std": std}], [], {"name": name})
        for name, std in stds.items()
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two results; the networks of one have markup for a name."""
    line = gl.shattering(lambda x: torch.sin(20 * x), torch.linspace(-2, 2, 32), lags=5, name="sine")
    out = tmp_path_factory.mktemp("page") / "report.html"
    return gl.report([responses_of({SCRIPT: 0.25, "b": 2.0}), line], out, title=f"Nets of {SCRIPT}")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    command = find_chromium()
    if command is None:
        pytest.skip("no Chromium on PATH: install it (Debian: apt-get install chromium)")
    with run_chromium(command, tmp_path_factory.mktemp("profile")) as running:
        yield running


def column(page: Page, title: str) -> list[str]:
    """The texts of a column of the first table, from above."""
    return page.evaluate(
        f"""(() => {{
            const table = document.querySelector("table");
            const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent === {title!r});
            return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
        }})()"""
    )


def press(page: Page, title: str) -> str:
    """Click a title; its aria-sort then."""
    return page.evaluate(
        f"""(() => {{
            const titles = [...document.querySelectorAll("table")[0].tHead.rows[0].cells];
            const title = titles.find((cell) => cell.textContent === {title!r});
            title.querySelector("button").click();
            return title.getAttribute("aria-sort");
        }})()"""
    )


def test_the_page_is_quiet_and_asks_for_nothing(browser: Chromium, page: Path, tmp_path: Path) -> None:
    shown = browser.open(page)
    said = shown.events("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert said == []
    asked = [event["request"]["url"] for event in shown.events("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:")] == [page.absolute().as_uri()]
    picture = Image.open(shown.screenshot(tmp_path / "report.png"))
    assert picture.size == (1000, 800)
    assert len(picture.convert("L").getcolors()) > 20


def test_markup_in_names_stays_text(browser: Chromium, page: Path) -> None:
    shown = browser.open(page)
    assert shown.events("Page.javascriptDialogOpening") == []
    assert shown.evaluate("document.scripts.length") == 1
    assert shown.evaluate("document.querySelector('h1').textContent") == f"Nets of {SCRIPT}"
    assert shown.evaluate(f"[...document.querySelectorAll('svg text')].some(e => e.textContent.includes({SCRIPT!r}))")


def test_tables_sort_up_down_and_back(browser: Chromium, tmp_path: Path) -> None:
    result = responses_of({"n10": 10.0, "n9": 9.0, "x": np.nan, "n2": 0.5})
    shown = browser.open(gl.report([result], tmp_path / "r.html"))
    assert press(shown, "mean std") == "ascending"
    assert column(shown, "mean std") == ["0.5000", "9.0000", "10.0000", "–"]
    assert press(shown, "mean std") == "descending"
    assert column(shown, "mean std") == ["10.0000", "9.0000", "0.5000", "–"]
    assert press(shown, "mean std") == "none"
    assert column(shown, "network") == ["n10", "n9", "x", "n2"]
    press(shown, "network")
    assert column(shown, "network") == ["n2", "n9", "n10", "x"]


@pytest.mark.parametrize("width", [320, 1400])
def test_nothing_sticks_out_of_the_window(browser: Chromium, page: Path, width: int) -> None:
    shown = browser.open(page, width=width)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_light_dark_and_print(browser: Chromium, page: Path) -> None:
    paper = "getComputedStyle(document.body).backgroundColor"
    light, dark = (browser.open(page, dark=dark) for dark in (False, True))
    assert light.evaluate(paper) == "rgb(255, 255, 255)"
    assert sum(map(int, re.findall(r"\d+", dark.evaluate(paper)))) < 150
    dark.send("Emulation.setEmulatedMedia", media="print")
    assert dark.evaluate(paper) == "rgb(255, 255, 255)"
    assert dark.evaluate("getComputedStyle(document.querySelector('details')).display") == "none"
    width = dark.evaluate("document.querySelector('figure').getBoundingClientRect().width")
    assert width / 96 * 25.4 == pytest.approx(85, abs=0.5)
    assert dark.evaluate("getComputedStyle(document.querySelector('.card svg')).filter") == "none"
    assert len(dark.send("Page.printToPDF")["data"]) > 10_000


def seen(page: Page, selector: str, path: Path) -> np.ndarray:
    """The grey values of the first such element, scrolled to the middle of the window."""
    box = page.evaluate(
        f"""(() => {{
            const element = document.querySelector({selector!r});
            element.scrollIntoView({{ block: "center", behavior: "instant" }});
            const box = element.getBoundingClientRect();
            return [box.left + 1, box.top + 1, box.right - 1, box.bottom - 1];
        }})()"""
    )
    return np.asarray(Image.open(page.screenshot(path)).convert("L").crop([round(side) for side in box]), dtype=float)


def test_figures_are_dark_in_the_dark_and_as_legible(browser: Chromium, page: Path, tmp_path: Path) -> None:
    light, dark = (seen(browser.open(page, dark=dark), ".card", tmp_path / "c.png") for dark in (False, True))
    assert np.median(light) == 255
    assert np.median(dark) < 50
    assert (dark > 180).mean() > 0.5 * (light < 75).mean() > 0, "what is black on white is white on black"


@pytest.mark.parametrize(("width", "first"), [(390, "figures"), (700, "figures"), (1200, "words")])
def test_figures_come_before_the_words_where_they_do_not_fit_beside(
    browser: Chromium, page: Path, width: int, first: str
) -> None:
    tops = browser.open(page, width=width).evaluate(
        "['figures', 'words'].map(name => document.querySelector(`.${name}`).getBoundingClientRect().top)"
    )
    assert (tops[0] < tops[1]) == (first == "figures")
    if first == "words":
        assert tops[0] == tops[1], "a figure of a column's width stands beside them"


@pytest.mark.parametrize("dark", [False, True])
def test_a_wide_table_shows_to_which_side_there_is_more(
    browser: Chromium, page: Path, tmp_path: Path, dark: bool
) -> None:
    shown = browser.open(page, width=390, dark=dark)
    scroller = "document.querySelector('.scroll')"
    assert shown.evaluate(f"{scroller}.scrollWidth > {scroller}.clientWidth + 100")
    # A caption has nothing in its last row of pixels, so that what stands there is the shadow.
    before = seen(shown, ".scroll", tmp_path / "before.png")[3]
    shown.evaluate(f"{scroller}.scrollLeft = 10_000")
    after = seen(shown, ".scroll", tmp_path / "after.png")[3]
    paper = np.median(before)
    assert abs(before[-2] - paper) > 20
    assert abs(before[1] - paper) < 2
    assert abs(after[-2] - paper) < 2
    assert abs(after[1] - paper) > 20
