"""Trained weights that ship with gradlab, and one record of how each was made and what it reaches."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

RECORD = "zoo.json"


def zoo_names() -> list[str]:
    """Networks with bundled weights, plain before residual, by depth."""
    return sorted((path.stem for path in zoo_folder().glob("*.safetensors")), key=by_family_and_depth)


def by_family_and_depth(network: str) -> tuple[str, int, str]:
    """The key that puts plain nets before residual ones, each by depth."""
    from gradlab.models import describe

    known = describe(network)
    return known.kind or "", known.depth or 0, network


def zoo_path(network: str) -> Path | None:
    """The bundled weights of a network, if there are any."""
    path = zoo_folder() / f"{network}.safetensors"
    return path if path.exists() else None


def zoo_record() -> dict[str, dict[str, Any]]:
    """How each network's weights were made and what they reach, by name."""
    path = zoo_folder() / RECORD
    record: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
    return record


def zoo_folder() -> Path:
    """Where the weights lie."""
    return Path(str(files("gradlab.zoo")))
