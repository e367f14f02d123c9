"""The sources of a network's weights: the zoo, published files and checkpoints."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from gradlab import hub
from gradlab.checkpoints import StateDict, file_digest, read_content, split_key, state_dicts
from gradlab.checkpoints.wording import shown
from gradlab.errors import UsageError
from gradlab.models import Architecture, describe
from gradlab.models.external import has_published_weights, split_package
from gradlab.zoo import zoo_path


@dataclass(frozen=True)
class Source:
    """Weights before they are loaded into a model."""

    found: list[StateDict]
    path: Path
    key: str
    network: str | None
    recipe: str | None
    normalization: str | None
    sha256: str
    published: bool


def find_weights(name: str, architecture: Architecture | None, asked: str, spec: str) -> Source:
    """Find the requested weights.

    Args:
        name: The name of the network, without its weights.
        architecture: The architecture that the name describes, for a network of gradlab.
        asked: The weights: `trained`, `hub`, `hub:ENUM`, or the path of a checkpoint.
        spec: The whole request, for error messages.

    Raises:
        UsageError: If there are no such weights.
        GradlabError: If they cannot be read or downloaded.
    """
    kind, _, choice = asked.partition(":")
    if kind == "trained":
        path = zoo_path(architecture.name) if architecture else None
        if path is None:
            raise UsageError(
                f"{name} has no bundled trained weights: give {name}@init, {name}@PATH of a checkpoint"
                + (f", or {name}@hub" if _has_hub(name, architecture) else "")
            )
        return _read(path)
    if kind == "hub":
        entry = _hub_entry(name, architecture, choice)
        return _read(hub.fetch(entry), entry)
    path, key = split_key(asked)
    if not os.path.exists(path):
        raise UsageError(
            f"{shown(spec)}: {shown(asked)} does not exist; WEIGHTS is init, init:SEED, trained, "
            "hub, or the path of a checkpoint"
        )
    return _read(path, key=key)


def _has_hub(name: str, architecture: Architecture | None) -> bool:
    return has_published_weights(name) or (architecture is not None and hub.published(architecture.name) is not None)


def _hub_entry(name: str, architecture: Architecture | None, choice: str) -> hub.Published:
    package, own_name = split_package(name)
    if package == "torchvision":
        return hub.torchvision_weights(own_name, choice or "DEFAULT")
    entry = hub.published(architecture.name) if architecture else None
    if entry is None:
        names = ", ".join(p.network for p in hub.PUBLISHED if p.url)
        known = describe(name)
        theirs = known.form == "imagenet" and known.family == "resnet"
        also = f"; torchvision/{known.family}{known.depth}@hub has" if theirs else ""
        raise UsageError(f"{name} has no published weights; hub has {names} and torchvision/NAME{also}")
    return entry


def _read(path: Path, entry: hub.Published | None = None, key: str = "") -> Source:
    content, record = read_content(path)
    digest = file_digest(path)
    entry = entry or hub.recognise(digest)
    recipe = entry.recipe if entry else record.get("recipe")
    normalization = entry.normalization if entry else record.get("normalization")
    found = state_dicts(content, key, path)
    return Source(found, path, key, record.get("network"), recipe, normalization, digest, entry is not None)
