"""The table of the benchmarks: its rows at toy size, and a peer that is missing or fails has one."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import own
from benchmarks.apart import FailedApart, apart
from benchmarks.jobs import NAMES, forward, jobs, subject
from benchmarks.paired import Job, Subject, Tool, Way
from benchmarks.peers.responses import naive_hooks
from benchmarks.table import Row, read, text, write
from gradlab.errors import UsageError


@contextmanager
def wrong(subject: Subject) -> Iterator[Way]:
    yield Way(forward(subject), lambda: torch.ones(8), but="always 1")


@contextmanager
def broken(subject: Subject) -> Iterator[Way]:
    raise RuntimeError("cannot attach\nand more")
    yield


TOOLS = (
    own.RESPONSES,
    Tool("hooks", naive_hooks),
    Tool("wrong", wrong),
    Tool("broken", broken),
    Tool("absent", wrong, "no-such-distribution", "asks for torch below 1"),
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    job = Job("std", lambda: subject("plain8", 2), forward, TOOLS, goal=1e9)
    return [*job.rows(2)]


def test_every_tool_has_a_row_that_says_how_its_result_compares(rows: list[Row]) -> None:
    """Against `std().item()` by hooks, whose divisor is one less; and what cannot be measured says why."""
    own_row, hooks, other, failing, absent = rows
    assert own_row.agrees == "the reference"
    assert own_row.cells()[3] == "1e+09 met"
    assert hooks.agrees.startswith("yes, to ")
    assert hooks.agrees.endswith("divisor n − 1")
    assert other.agrees.startswith("no: up to ")
    assert min(row.median or 0 for row in (own_row, hooks, other)) > 0
    assert failing.agrees == "failed: RuntimeError: cannot attach"
    assert absent.agrees == "not installed: no-such-distribution, which asks for torch below 1"
    assert {row.cells()[2] for row in (failing, absent)} == {"not measured"}


def test_the_table_fits_a_terminal_and_is_written_whole(rows: list[Row], tmp_path: Path) -> None:
    lines = "\n".join(text(rows)).splitlines()
    assert max(map(len, lines)) <= 100
    for suffix in (".md", ".csv"):
        write(rows, path := tmp_path / f"table{suffix}")
        assert [sum(row.by in line for line in path.read_text().splitlines()) for row in rows] == [1] * len(rows)
    assert read(path) == rows
    with pytest.raises(UsageError, match="neither"):
        write(rows, tmp_path / "table.txt")


def test_what_is_known_is_not_measured_again(rows: list[Row]) -> None:
    """A tool that was missing, or failed, is tried again."""
    tools = Tool("hooks", broken), Tool("broken", wrong)
    known = [*rows, replace(rows[1], job="another", by="broken")]
    again, tried = Job("std", lambda: subject("plain8", 2), forward, tools).rows(2, known)
    assert again == rows[1]
    assert tried.agrees.startswith("failed: ")


def test_a_value_that_cannot_be_sent_ends_its_process_with_a_reason() -> None:
    with pytest.raises(FailedApart, match="pickle"):
        apart(lambda: lambda: 0)


def test_the_names_of_all_jobs_are_told() -> None:
    assert (*jobs(8, 2, 2, "resnet8"),) == NAMES
