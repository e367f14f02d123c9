"""The page of the gallery, made from the records of the figures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError, reason_of
from gradlab.gallery.figures import FIGURES
from gradlab.results.label import description
from gradlab.results.training.recipes import recipe_key, recipe_of

HEAD = """# Gallery

Figures and tables of the papers, as gradlab measures and draws them. `gradlab figures NAME` rebuilds one figure, and
`gradlab figures --all` rebuilds all figures for which the data is available; both write this page from the records of
the figures. Every figure is also available as PDF, with its rows as CSV and its record as JSON.
"""


def readme(folder: str | Path) -> str:
    """The page that shows each figure in a folder: claim, command, measurement, and differences from the paper.

    Args:
        folder: The output folder of `gradlab figures`.

    Raises:
        GradlabError: If a record in the folder cannot be read.
    """
    records = [record for figure in FIGURES if (record := _record(Path(folder) / f"{figure.name}.json"))]
    contents = "\n".join(
        f"- [{record['title']}](#{record['name']}): {record['paper'].partition(',')[0]}, {record['figure']}"
        for record in records
    )
    return "\n".join([HEAD, contents, "", *map(_section, records)])


def _record(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return record if {"title", "claim", "command", "versions"} <= record.keys() else None
    except (OSError, ValueError) as error:
        raise GradlabError(f"{path} cannot be read: {reason_of(error)}") from None


def _section(record: dict[str, Any]) -> str:
    name = record["name"]
    parts = [
        f"## {name}",
        f"**{record['title']}.** {record['paper']}: {record['figure']}.",
        f"![{record['title']}]({name}.png)",
        f"The paper: {record['claim']}",
    ]
    if record["findings"]:
        parts.append("Measured:\n\n" + _bullets(record["findings"]))
    parts.append(f"```bash\n{record['command']}\n```")
    parts.append(_made(record))
    if any("accuracy" in network for network in _networks(record)):
        parts.append(_weights(record))
    if any("steps" in network for network in _networks(record)):
        parts.append(_runs(record))
    if record["differs"] or record["notes"]:
        parts.append("What differs from the paper, and notes:\n\n" + _bullets([*record["differs"], *record["notes"]]))
    parts.append(f"Files: [{name}.pdf]({name}.pdf), [{name}.csv]({name}.csv), [{name}.json]({name}.json).")
    return "\n\n".join(parts) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _made(record: dict[str, Any]) -> str:
    versions = record["versions"]
    size = "**at toy size, for a test**, " if record["toy"] else ""
    where = "" if record["device"] == "none" else f" on {record['device']}"
    return (
        f"Made {size}{record['utc'][:10]}{where} in {record['wall_seconds']:.0f} s with gradlab {versions['gradlab']}, "
        f"torch {versions['torch']}."
    )


def _networks(record: dict[str, Any]) -> list[dict[str, Any]]:
    return [network for network in record.get("networks", []) if isinstance(network, dict)]


def _weights(record: dict[str, Any]) -> str:
    """One row per network: origin of the weights, error on all test images, and error on the measured images."""
    rows = [
        "| network | weights | made by | test error (%) | error here (%) | images |",
        "|---|---|---|--:|--:|--:|",
    ]
    for network in _networks(record):
        accuracy, known = network.get("accuracy"), network.get("test_error")
        here = "–" if accuracy is None else f"{100 * (1 - accuracy):.2f}"
        error = "–" if known is None else f"{known:.2f}"
        rows.append(
            f"| {network['name']} | {network['weights_label']} | {network['recipe'] or '–'} | {error} "
            f"| {here} | {network['images']:,} of {network['data']} |"
        )
    return "\n".join(rows)


def _runs(record: dict[str, Any]) -> str:
    """One row per training: network, recipe, steps, arithmetic and device; those that differ by seed share a row."""
    alike: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for run in _networks(record):
        name = description(run).get("name", run["network"])
        key = (name, recipe_key(run), run["steps"], run["arithmetic"], run["device"])
        alike.setdefault(key, []).append(run)
    rows = ["| network | trained by | steps | computed in | on |", "|---|---|--:|---|---|"]
    for (*_, steps, arithmetic, device), (first, *others) in alike.items():
        seeds = ", ".join(str(run["seed"]) for run in (first, *others))
        by = f"{recipe_of(first)}, seeds {seeds}" if others else first["recipe"]
        rows.append(f"| {first['network']} | {by} | {steps:,} | {arithmetic} | {device} |")
    return "\n".join(rows)
