"""The list of available networks, with their sizes and costs."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from gradlab import hub
from gradlab.errors import UsageError
from gradlab.experiments.request import Progress
from gradlab.facts import input_shape_of
from gradlab.models import Cost, cost, create, named_cost, network_names, parse_name, weighted_layers
from gradlab.models.detectors import DETECTORS
from gradlab.models.external import check_external, has_published_weights, is_external, split_package
from gradlab.networks import split_spec
from gradlab.results.tables import Formats
from gradlab.zoo import zoo_names, zoo_record

FORMATS: Formats = {"parameters": "{:,d}".format, "multiply-adds": "{:,d}".format, "test error": "{:.2%}".format}


def list_networks(
    patterns: str | Sequence[str] | None = None, progress: Progress | None = None
) -> tuple[pd.DataFrame, Formats]:
    """List networks: name, weighted layers, parameters, multiply-adds, available weights, and test error in the zoo.

    Args:
        patterns: Globs, or names of any networks that can be built; None lists the networks of the papers.
        progress: A function called after every network.

    Returns:
        A frame with one row per network, and the formats of its columns.

    Raises:
        UsageError: If nothing matches one of them.
    """
    rows: list[dict[str, Any]] = []
    reached = zoo_record()
    asked = [patterns] if patterns is None or isinstance(patterns, str) else patterns
    names = list(dict.fromkeys(name for pattern in asked for name in _names(pattern)))
    for done, name in enumerate(names, 1):
        counted = _cost(name)
        rows.append(
            {
                "network": name,
                "layers": counted.layers,
                "parameters": counted.parameters,
                # Those of a detector depend on the regions that it finds.
                "multiply-adds": None if name in DETECTORS else counted.multiply_adds,
                "weights": ", ".join(_weights(name)),
                **({"test error": reached[name]["errors"]["cifar10"]} if name in reached else {}),
            }
        )
        if progress is not None:
            progress("networks", done, len(names))
    return pd.DataFrame(rows).astype({"multiply-adds": "Int64"}), FORMATS


def _names(pattern: str | None) -> list[str]:
    """The canonical names of the networks that match a pattern."""
    if pattern is None:
        return network_names()
    name, weights = split_spec(pattern)
    if weights:
        raise UsageError(
            f"{pattern}: a network is listed without weights, of which a column tells the choices: give {name}"
        )
    if not re.search(r"[*?\[]", pattern):
        check_external(pattern)
        return [pattern if is_external(pattern) else parse_name(pattern).name]
    if names := fnmatch.filter(_all_names(pattern), pattern):
        return names
    raise UsageError(f"no network matches {pattern!r}; `gradlab models` lists the papers' own")


def _cost(name: str) -> Cost:
    if not is_external(name):
        return named_cost(parse_name(name))
    model = create(name)
    if name in DETECTORS:
        return Cost(len(weighted_layers(model)), sum(p.numel() for p in model.parameters()), 0)
    shape = input_shape_of(model)
    if shape is None:
        raise UsageError(f"{name}: its input shape is unknown: give the module an input_shape, such as (3, 224, 224)")
    return cost(model, shape)


def _all_names(pattern: str) -> list[str]:
    package, _ = split_package(pattern)
    if package == "torchvision":
        from torchvision import models

        listed = [f"torchvision/{name}" for name in models.list_models(module=models)]
        return [*listed, *(name for name in DETECTORS if split_package(name)[0] == package)]
    if package == "timm":
        try:
            import timm
        except ModuleNotFoundError:
            raise UsageError("timm is not installed: pip install 'gradlab-torch[timm]'") from None
        return [f"timm/{name}" for name in timm.list_models()]
    # Detectors take seconds to build, so that only a glob lists them.
    return [*network_names(), *DETECTORS]


def _weights(name: str) -> list[str]:
    if name in DETECTORS:
        return ["init"]
    published = has_published_weights(name) or hub.published(name) is not None
    return [
        "init",
        *(["trained"] if name in zoo_names() else []),
        *(["hub"] if published else []),
    ]
