"""From a figure of the gallery to its four files: PNG and PDF, rows as CSV, record as JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlab import hub
from gradlab.experiments.request import Progress
from gradlab.gallery.figure import Figure
from gradlab.results.drawing import drawn
from gradlab.results.files import write_all
from gradlab.results.record import json_text
from gradlab.results.result import Result
from gradlab.zoo import zoo_record

PNG_DPI = 250
"""Sharp on a page of the web; the PDF is for print."""


def render(
    figure: Figure,
    folder: str | Path,
    *,
    device: str = "auto",
    toy: bool = False,
    formats: Sequence[str] = ("png", "pdf"),
    progress: Progress | None = None,
) -> tuple[Result, list[Path]]:
    """Measure and draw one figure of the gallery.

    Args:
        figure: Which.
        folder: For `NAME.csv`, `NAME.json` and the figure in each format; all are written, or none.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        toy: As small as a test wants it; the record says so.
        formats: Of the figure.
        progress: Called while the work goes on.

    Returns:
        What was measured, and the files.

    Raises:
        NotAtHand: When something that the figure needs is not here.
        GradlabError: When something cannot be read, run or written.
    """
    options = figure.small() if toy else dict(figure.options())
    result = figure.measure(options, device=device, progress=progress)
    contents = {f"{figure.name}.csv": figure.table(result).to_csv(index=False).encode()}
    contents |= drawn({figure.name: lambda: figure.draw(result)}, formats, PNG_DPI)
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    record = _facts(figure, toy) | {**result.record, "notes": result.notes, "findings": result.findings()}
    record |= {"command": figure.command_line(options), "sha256": digests}
    record["networks"] = [_with_test_error(network) for network in record["networks"]]
    contents[f"{figure.name}.json"] = json_text(record).encode()
    return result, write_all(folder, contents)


def _with_test_error(network: Any) -> Any:
    """What the record says of a network, with the percent of CIFAR-10's test images that its weights get wrong."""
    weights = network.get("weights") if isinstance(network, dict) else None
    if weights == "trained":
        share = zoo_record().get(network["name"], {}).get("errors", {}).get("cifar10")
        return {**network, "test_error": None if share is None else 100 * share}
    published = hub.published(network["name"]) if weights == "hub" else None
    return network if published is None else {**network, "test_error": published.test_error}


def _facts(figure: Figure, toy: bool) -> dict[str, Any]:
    """What the record says of the figure, before how it was measured."""
    return {
        "name": figure.name,
        "paper": figure.paper,
        "figure": figure.figure,
        "title": figure.title,
        "claim": figure.claim,
        "differs": list(figure.differs),
        "toy": toy,
    }
