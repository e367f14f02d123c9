"""The HTML page with the findings, figures, tables and records of results."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gradlab.errors import UsageError
from gradlab.reporting.svg import inline_svg, width_mm
from gradlab.reporting.table import Table, make_table
from gradlab.results.files import prepared_folder, write_atomically
from gradlab.results.finding import rule_of
from gradlab.results.grouping import grouped
from gradlab.results.kinds import load_results
from gradlab.results.record import json_text, versions
from gradlab.results.result import Result

MOST_ROWS = 500
"""Largest number of rows of a frame that is shown completely."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Drawing:
    """A figure of the page."""

    svg: Markup
    caption: str
    width_mm: float


@dataclass(frozen=True)
class Section:
    """One result, ready for the page."""

    anchor: str
    title: str
    source: str
    facts: dict[str, str]
    reading: list[tuple[str, list[str]]]
    notes: Sequence[str]
    drawings: list[Drawing]
    summary: Table
    legend: Sequence[str]
    rows: Table | None
    row_count: int
    record: str


def report(
    results: Sequence[Result | str | Path], out: str | Path = "report.html", *, title: str = "gradlab report"
) -> Path:
    """Write one self-contained HTML file with the figures, tables, findings and records of results.

    Each finding is shown with the rule that triggered it; nothing is judged without a rule. The output is
    deterministic: the same results give the same bytes.

    Args:
        results: Results, or folders of saved results; a result that is named twice is shown once.
        out: The path of the file.
        title: The title of the page.

    Returns:
        The path of the file.

    Raises:
        UsageError: If there are no results, a folder contains none, or `out` is a folder.
        GradlabError: If a result is damaged, or the file cannot be written.
    """
    out = Path(out)
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name the HTML file, as {out / 'report.html'}")
    with prepared_folder(out.parent):
        sections = [_section(place, source, result) for place, (source, result) in enumerate(_loaded(results), 1)]
        write_atomically(out, _page(title, sections).encode())
    return out


def _loaded(results: Sequence[Result | str | Path]) -> list[tuple[str, Result]]:
    """The results of a report with their folders, each once.

    Raises:
        UsageError: If there are none.
        GradlabError: If one is damaged.
    """
    loaded: list[tuple[str, Result]] = []
    shown: set[tuple[Path, str]] = set()
    for given in results:
        if isinstance(given, Result):
            loaded.append(("", given))
        else:
            found = {
                (folder.resolve(), result.record_file()): (folder, result) for folder, result in load_results(given)
            }
            loaded += [(str(folder), result) for place, (folder, result) in found.items() if place not in shown]
            shown.update(found)
    if not loaded:
        raise UsageError("a report needs at least one result: give the folders that gradlab's commands wrote")
    return loaded


def _page(title: str, sections: Sequence[Section]) -> str:
    pages = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    script = (_HERE / "sort.js").read_text(encoding="utf-8")
    return pages.get_template("page.html").render(
        title=title,
        sections=sections,
        style=Markup((_HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup(script),
        # The browser runs only this script, whatever the results contain, and loads nothing.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=versions()["gradlab"],
        most_rows=MOST_ROWS,
    )


def _section(place: int, source: str, result: Result) -> Section:
    title = result.title or result.name
    small = len(result.frame) <= MOST_ROWS
    rows = make_table(result.frame, result.formats, f"All {len(result.frame):,} rows") if small else None
    return Section(
        anchor=f"result-{place}",
        title=title,
        source=source,
        facts=_facts(result.record),
        reading=[(rule, list(lines)) for rule, lines in groupby(result.findings(), rule_of)],
        notes=[*result.coverage_lines(), *grouped(result.notes, result.networks)],
        drawings=[
            _drawing(svg, f"r{place}f{number}-", result.captions.get(name, title))
            for number, (name, svg) in enumerate(result.svg().items(), 1)
        ],
        summary=make_table(result.summary(), result.formats, "Summary"),
        legend=result.legend_lines(),
        rows=rows,
        row_count=len(result.frame),
        record=json_text(result.record),
    )


def _drawing(svg: str, prefix: str, caption: str) -> Drawing:
    return Drawing(Markup(inline_svg(svg, prefix, caption)), caption, width_mm(svg))


def _facts(record: dict[str, Any]) -> dict[str, str]:
    """Return the main entries of a record by their titles."""
    made = record.get("versions") or {}
    used = [f"{name} {made[name]}" for name in ("gradlab", "torch", "cuda", "python") if made.get(name)]
    facts = {
        "Command": record.get("command"),
        "Made": str(record.get("utc", "")).replace("T", " ").replace("+00:00", " UTC"),
        "Device": record.get("device"),
        "Versions": ", ".join(used),
    }
    return {name: str(value) for name, value in facts.items() if value}
