"""Trained weights that ship with gradlab, and a record of how each was trained and of its errors."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

RECORD = "zoo.json"


def zoo_names() -> list[str]:
    """List the networks with bundled weights, plain before residual, by depth."""
    return sorted((path.stem for path in zoo_folder().glob("*.safetensors")), key=by_family_and_depth)


def by_family_and_depth(network: str) -> tuple[str, int, str]:
    """Return a sort key that puts plain nets before residual ones, each by depth."""
    from gradlab.models import describe

    known = describe(network)
    return known.kind or "", known.depth or 0, network


def zoo_path(network: str) -> Path | None:
    """Return the path of a network's bundled weights, or None."""
    path = zoo_folder() / f"{network}.safetensors"
    return path if path.exists() else None


def zoo_record() -> dict[str, dict[str, Any]]:
    """Return the record of how each network's weights were trained and of their errors, by name."""
    path = zoo_folder() / RECORD
    record: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return record


def zoo_folder() -> Path:
    """Return the folder of the bundled weights."""
    return Path(str(files("gradlab.zoo")))
