"""Trained weights that ship with gradlab, each file with its record inside."""

from importlib.resources import files
from pathlib import Path


def zoo_names() -> list[str]:
    """Networks with bundled weights."""
    return sorted(path.stem for path in _folder().glob("*.safetensors"))


def zoo_path(network: str) -> Path | None:
    """The bundled weights of a network, if there are any."""
    path = _folder() / f"{network}.safetensors"
    return path if path.exists() else None


def _folder() -> Path:
    return Path(str(files("gradlab.zoo")))
