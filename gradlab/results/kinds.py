"""The kinds of results by the measurements in their records, and the results in a folder."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from gradlab.errors import GradlabError, UsageError, reason_of
from gradlab.results.files import read_text
from gradlab.results.result import Result

KINDS = {
    "responses": "responses.ResponsesResult",
    "shatter": "shatter.ShatterResult",
    "shattering": "shatter.ShatterResult",
    "input-gradients": "input_gradients.InputGradientsResult",
    "gradients": "gradients.GradientsResult",
    "activations": "activations.ActivationsResult",
    "signal": "signal.SignalResult",
    "attention": "attention.AttentionResult",
    "jacobian": "jacobian.JacobianResult",
    "lesion": "lesion.LesionResult",
    "training": "training.TrainingResult",
    "architectures": "architectures.ArchitecturesResult",
    "dynamics": "dynamics.DynamicsResult",
    "compare-runs": "compare_runs.ComparisonResult",
    "degradation": "degradation.DegradationResult",
    "compare": "compare.CompareResult",
    "coordinates": "coordinates.CoordinatesResult",
}
"""The folder and class that load a result, by the `measurement` in its record; a new kind is one line here."""


def kind(measurement: str) -> type[Result]:
    """The class of a measurement's results."""
    folder, _, name = KINDS[measurement].partition(".")
    found: type[Result] = getattr(import_module(f"gradlab.results.{folder}.result"), name)
    return found


def load_results(folder: str | Path) -> list[tuple[Path, Result]]:
    """Load every result in a folder, or if there is none, those in its subfolders.

    Args:
        folder: A folder written by `Result.save` or `--out` of a command, or the parent of several such folders.

    Returns:
        At least one folder and result, ordered by folder.

    Raises:
        UsageError: If the folder does not exist or contains no result.
        GradlabError: If the files of a result are damaged or belong to different runs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: give one that a gradlab command or result.save(...) wrote")
    results = _saved_in(folder)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()) if not results else []:
        results += _saved_in(inner)
    if not results:
        records = ", ".join(dict.fromkeys(kind(name).record_file() for name in KINDS))
        raise UsageError(f"{folder} holds no result of gradlab: there is none of {records} in it or one folder below")
    return results


def load_only(folder: str | Path) -> Result:
    """Load the result in a folder.

    Raises:
        UsageError: If the folder contains no result, or several.
        GradlabError: If its files are damaged or belong to different runs.
    """
    found = _saved_in(Path(folder))
    if len(found) == 1:
        return found[0][1]
    if not found:
        raise UsageError(f"{folder} holds no result of gradlab: give a folder that result.save(...) or --out wrote")
    kinds = ", ".join(f"gl.{type(result).__name__}.load" for _, result in found)
    raise UsageError(f"{folder} holds {len(found)} results: choose by {kinds}")


def _saved_in(folder: Path) -> list[tuple[Path, Result]]:
    kinds = {name: kind(name) for name in KINDS}
    measured = {file: _measurement(folder / file) for file in {one.record_file() for one in kinds.values()}}
    return [(folder, one.load(folder)) for name, one in kinds.items() if measured[one.record_file()] == name]


def _measurement(path: Path) -> str | None:
    """The measurement named in a record; None if there is no record."""
    if not path.is_file():
        return None
    try:
        record = json.loads(read_text(path))
    except (OSError, ValueError) as error:
        raise GradlabError(f"{path} is damaged: {reason_of(error)}") from None
    measurement = record.get("measurement") if isinstance(record, dict) else None
    if not isinstance(measurement, str) or measurement not in KINDS:
        raise GradlabError(f"{path} is no record of a measurement known here: its measurement is {measurement!r}")
    return measurement
