"""Renders a figure of the gallery to its four files: PNG and PDF, rows as CSV, record as JSON."""

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
"""The resolution of the PNG, for web pages; the PDF is for print."""


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
        figure: The figure.
        folder: The folder for `NAME.csv`, `NAME.json` and the figure in each format; either all are written or none.
        device: The device: `auto`, `cpu`, `cuda`, `cuda:1`.
        toy: Whether to use a small size for tests, which the record notes.
        formats: The file formats of the figure.
        progress: A function called with the progress of the measurement.

    Returns:
        The result, and the paths of the files.

    Raises:
        NotAtHand: If something that the figure needs is missing.
        GradlabError: If something cannot be read, run or written.
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
    """The facts on a network in the record, with its error on all test images of CIFAR-10 in percent."""
    weights = network.get("weights") if isinstance(network, dict) else None
    if weights == "trained":
        share = zoo_record().get(network["name"], {}).get("errors", {}).get("cifar10")
        return {**network, "test_error": None if share is None else 100 * share}
    published = hub.published(network["name"]) if weights == "hub" else None
    return network if published is None else {**network, "test_error": published.test_error}


def _facts(figure: Figure, toy: bool) -> dict[str, Any]:
    """The facts on the figure that precede those on its measurement in the record."""
    return {
        "name": figure.name,
        "paper": figure.paper,
        "figure": figure.figure,
        "title": figure.title,
        "claim": figure.claim,
        "differs": list(figure.differs),
        "toy": toy,
    }
