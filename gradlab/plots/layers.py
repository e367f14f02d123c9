"""Labels of an axis of layers: their names if there are few, or the parts of the network if there are many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from string import digits
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from gradlab.plots.style import COLUMN_WIDTH

MOST_NAMES = 12
"""The largest number of layers that are named individually."""

_ROOT = "the model itself"
_LONGEST_NAME = 22
_NAME_SIZE = 6.0
_STAGE_SIZE = 5.5
_AXES_WIDTH = 0.85 * COLUMN_WIDTH
_SLANT_FROM = 36
"""The total number of characters of names that does not fit on one line at the width of a column."""

_STAGE_STYLE: dict[str, Any] = {"fontsize": _STAGE_SIZE, "color": "0.4", "va": "bottom", "ha": "left"}


def label_layers(ax: Axes, frame: pd.DataFrame) -> None:
    """Label an axis with the names of layers if there are few, or else with the parts of the networks.

    There are no labels if networks have layers with different names at the same place.

    Args:
        ax: The axes, whose x axis counts layers in order of execution.
        frame: A frame with the columns index (from 1) and layer.
    """
    layers = common_layers(frame)
    if len(layers) > MOST_NAMES:
        _mark_stages(ax, layers)
    elif layers:
        names = [_shortened(name) for name in layers.values()]
        slanted = _slanted(names)
        ax.set_xticks(list(layers), labels=names, fontsize=_NAME_SIZE)
        if slanted:
            ax.tick_params(axis="x", labelrotation=40)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
        ax.set_xlim(min(layers) - 0.5, max(layers) + 0.5)


def common_layers(frame: pd.DataFrame) -> dict[int, str]:
    """The name of the layer at each place; empty if networks differ in a layer.

    Args:
        frame: A frame with the columns index and layer.
    """
    places = frame.dropna(subset="index").drop_duplicates(["index", "layer"]).sort_values("index")
    if places["index"].duplicated().any():
        return {}
    names = places["layer"].fillna("").replace("", _ROOT)
    return {int(index): str(layer) for index, layer in zip(places["index"], names, strict=True)}


def room_for_names(frame: pd.DataFrame) -> float:
    """The additional space below an axis that `label_layers` needs compared with numbers, in inches.

    Args:
        frame: A frame with the columns index and layer.
    """
    names = [_shortened(name) for name in common_layers(frame).values()]
    slanted = len(names) <= MOST_NAMES and _slanted(names)
    return 0.4 * _NAME_SIZE / 72 * max(map(len, names)) if slanted else 0.0


def stages(layers: Sequence[str]) -> list[tuple[int, str]]:
    """The beginnings of the parts of a network: the position of the first layer of each, and the name of the part.

    A part is a sequence of layers in one module. Modules are taken at the smallest depth at which no part has more than
    half of all layers, or one level above if each layer is a part at this depth.

    Args:
        layers: The qualified names of the layers, in order of execution.
    """
    parts: list[tuple[int, str]] = []
    for level in range(1, max(name.count(".") for name in layers) + 2):
        modules = [".".join(name.split(".")[:level]) for name in layers]
        runs = [(name, [place for place, _ in run]) for name, run in groupby(enumerate(modules), lambda pair: pair[1])]
        if len(runs) == len(layers):
            break
        parts = [(places[0], name) for name, places in runs]
        if 2 * max(len(places) for _, places in runs) <= len(layers):
            break
    return parts


def _mark_stages(ax: Axes, layers: dict[int, str]) -> None:
    places, parts = list(layers), stages(list(layers.values()))
    ends = [place for place, _ in parts[1:]] + [len(places)]
    # The approximate number of characters per layer, given that they are half as wide as high.
    width = 72 * _AXES_WIDTH / len(places) / (0.6 * _STAGE_SIZE)
    labels = [name.rpartition(".")[2] for _, name in parts]
    stems = [label.rstrip(digits) for label in labels]
    for (start, _), end, label, stem in zip(parts, ends, labels, stems, strict=True):
        left, room = places[start] - 0.5, width * (end - start)
        if start:
            ax.axvline(left, color="0.75", linewidth=0.5, zorder=0.5)
        if len(label) > room and stems.count(stem) > 1:
            label = label.removeprefix(stem)
        if len(parts) > 1 and len(label) <= room:
            ax.text(left, 1, f" {label}" if start else label, transform=ax.get_xaxis_transform(), **_STAGE_STYLE)


def _shortened(name: str) -> str:
    """A shortened name, which keeps its end, since that distinguishes it from others."""
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _slanted(names: Sequence[str]) -> bool:
    return sum(map(len, names)) + 2 * len(names) > _SLANT_FROM
