"""The networks there are, with what they are made of and what they cost."""

from __future__ import annotations

import fnmatch
from typing import Any

import pandas as pd

from gradlab import hub
from gradlab.errors import UsageError
from gradlab.experiments.subjects import Progress
from gradlab.models import catalog, cost, create
from gradlab.results.tables import Formats
from gradlab.zoo import zoo_names, zoo_record

FULLY_CONNECTED = ("mlp50", "mlp50-ll", "resmlp50", "resmlp50-beta=0.1")
"""Those of the shattered gradients paper, at one of its depths; there is every depth."""

FORMATS: Formats = {"parameters": "{:,d}".format, "multiply-adds": "{:,d}".format, "test error": "{:.2%}".format}


def list_networks(pattern: str | None = None, progress: Progress | None = None) -> tuple[pd.DataFrame, Formats]:
    """A row a network: name, weighted layers, parameters, multiply-adds, the weights there are, the zoo's test error.

    Args:
        pattern: A glob; None lists the papers' own networks.
        progress: Called after every network.

    Returns:
        The frame, and how to print its columns.

    Raises:
        UsageError: When nothing matches.
    """
    names = fnmatch.filter(_all_names(pattern), pattern or "*")
    if not names:
        raise UsageError(f"no network matches {pattern!r}; `gradlab models` lists the papers' own")
    rows: list[dict[str, Any]] = []
    reached = zoo_record()
    for done, name in enumerate(names, 1):
        model = create(name)
        counted = cost(model, model.input_shape)  # type: ignore[arg-type]
        rows.append(
            {
                "network": name,
                "layers": counted.layers,
                "parameters": counted.parameters,
                "multiply-adds": counted.multiply_adds,
                "weights": ", ".join(_weights(name)),
                **({"test error": reached[name]["errors"]["cifar10"]} if name in reached else {}),
            }
        )
        if progress is not None:
            progress("networks", done, len(names))
    return pd.DataFrame(rows), FORMATS


def _all_names(pattern: str | None) -> list[str]:
    if pattern and pattern.startswith("torchvision/"):
        from torchvision import models

        return [f"torchvision/{name}" for name in models.list_models(module=models)]
    if pattern and pattern.startswith("timm/"):
        try:
            import timm
        except ModuleNotFoundError:
            raise UsageError("timm is not installed: pip install 'gradlab-torch[timm]'") from None
        return [f"timm/{name}" for name in timm.list_models()]
    return [*catalog(), *FULLY_CONNECTED]


def _weights(name: str) -> list[str]:
    published = name.startswith(("torchvision/", "timm/")) or hub.published(name) is not None
    return [
        "init",
        *(["trained"] if name in zoo_names() else []),
        *(["hub"] if published else []),
    ]
