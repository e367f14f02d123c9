"""The table of the benchmarks: its rows, as text of 100 columns, as Markdown and as CSV."""

from __future__ import annotations

import csv
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap
from typing import Any

import torch
from tabulate import tabulate

from benchmarks.readings import quartiles
from gradlab.errors import UsageError
from gradlab.stats import native

HEADERS = ("job", "by", "median (quartiles)", "goal", "agrees with gradlab")
WIDTHS = (33, 26, 12, 24)
"""Of the columns after the job in a terminal, which has a line of its own there."""


@dataclass(frozen=True)
class Row:
    """What a job costs when one tool does it.

    Attributes:
        job: What is done, on what, and what it is compared with.
        by: The tool, with its version.
        median: The median over the rounds; None where nothing was measured.
        low: The lower quartile.
        high: The upper one.
        unit: What they count: "" for ratios.
        goal: What the median should not exceed; None where there is no goal.
        agrees: How the result compares with that of gradlab; or why there is none.
    """

    job: str
    by: str
    median: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    goal: float | None = None
    agrees: str = ""

    @classmethod
    def of(
        cls, job: str, by: str, values: Sequence[float], unit: str = "", goal: float | None = None, agrees: str = ""
    ) -> Row:
        """The row of what was measured in several rounds."""
        low, median, high = quartiles(values)
        return cls(job, by, median, low, high, unit, goal, agrees)

    def cells(self) -> tuple[str, ...]:
        """The row in words."""
        return self.job, self.by, self._measured(), self._goal(), self.agrees

    def _measured(self) -> str:
        if self.median is None or self.low is None or self.high is None:
            return "not measured"
        median, low, high = (number(value) for value in (self.median, self.low, self.high))
        unit = f" {self.unit}" if self.unit else ""
        return f"{median}{unit}" if low == median == high else f"{median}{unit} ({low} to {high})"

    def _goal(self) -> str:
        if self.goal is None or self.median is None:
            return ""
        return f"{self.goal:g} {'met' if self.median <= self.goal else 'missed'}"


def number(value: float) -> str:
    """Three digits, or two decimals."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def machine() -> str:
    """The machine and the versions, without its name."""
    library = "with" if native.is_available() else "without"
    versions = f"torch {torch.__version__.split('+')[0]}, Python {platform.python_version()}"
    return f"{processor()}, one thread, {versions}, {library} the C library"


def processor() -> str:
    """The name of the processor, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor() or platform.machine()


def text(rows: Iterable[Row]) -> Iterator[str]:
    """The table for a terminal as it grows, in lines of at most 100 characters, under a line for each job."""
    yield _line(HEADERS[1:])
    last = ""
    for row in rows:
        job, *others = row.cells()
        if job != last:
            yield f"\n{job}"
        yield _line(others)
        last = job


def _line(cells: Sequence[str]) -> str:
    """The cells of a row beside each other, each broken into lines of its column."""
    columns = [wrap(cell, width - 1) for cell, width in zip(cells, WIDTHS, strict=True)]
    parts = zip_longest(*columns, fillvalue="")
    return "\n".join("  " + "".join(f"{a:{w}}" for a, w in zip(line, WIDTHS, strict=True)).rstrip() for line in parts)


def write(rows: Sequence[Row], path: Path) -> None:
    """Write the table as Markdown or, with all digits, as CSV, by the suffix of the path.

    Raises:
        UsageError: If the suffix is another one.
    """
    check(path)
    if path.suffix == ".md":
        table = tabulate([row.cells() for row in rows], HEADERS, tablefmt="github", disable_numparse=True)
        path.write_text(f"{machine()}.\n\n{table}\n")
        return
    names = [field.name for field in fields(Row)]
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, "machine"])
        writer.writerows([*(getattr(row, name) for name in names), machine()] for row in rows)


def read(path: Path) -> list[Row]:
    """What `write` has written of this machine to a CSV file; nothing if there is no file."""
    if path.suffix != ".csv" or not path.exists():
        return []
    with path.open(newline="") as file:
        lines: list[dict[str, Any]] = [line for line in csv.DictReader(file) if line.pop("machine") == machine()]
    numbers = "median", "low", "high", "goal"
    return [Row(**line | {name: float(line[name]) if line[name] else None for name in numbers}) for line in lines]


def check(path: Path) -> None:
    """Raise a UsageError if a table cannot be written under this name."""
    if path.suffix not in (".md", ".csv"):
        raise UsageError(f"the table is written as Markdown or CSV, and {path.name} ends with neither .md nor .csv")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} for {path.name}: make it first")
