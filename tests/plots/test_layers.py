"""Layers on an axis: names where they are few, the parts of a network where they are many."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes

import gradlab as gl
from gradlab.plots.layers import label_layers, room_for_names, stages

RESNET = ["conv1", *(f"layer{n}.{b}.conv{c}" for n in (1, 2, 3) for b in (0, 1, 2) for c in (1, 2)), "fc"]
VGG = [*(f"features.{n}" for n in range(13)), *(f"classifier.{n}" for n in range(3))]
TRANSFORMER = [
    "wte",
    *(f"h.{n}.{part}" for n in range(12) for part in ("attn.qkv", "attn.out", "mlp.0", "mlp.2")),
    "lm",
]


def axes(*networks: list[str]) -> Axes:
    frame = pd.concat(pd.DataFrame({"index": range(1, len(names) + 1), "layer": names}) for names in networks)
    with gl.theme():
        figure, ax = plt.subplots()
        label_layers(ax, frame)
    plt.close(figure)
    return ax


def written(ax: Axes) -> list[str]:
    return [text.get_text().strip() for text in ax.texts]


@pytest.mark.parametrize(
    ("layers", "parts"),
    [
        (RESNET, [(0, "conv1"), (1, "layer1"), (7, "layer2"), (13, "layer3"), (19, "fc")]),
        (VGG, [(0, "features"), (13, "classifier")]),
        (TRANSFORMER, [(0, "wte"), *((1 + 4 * n, f"h.{n}") for n in range(12)), (49, "lm")]),
        (["a", "b", "c"], []),
        (["blocks.0", "blocks.1"], [(0, "blocks")]),
        (["", "a.b"], []),
    ],
)
def test_stages(layers: list[str], parts: list[tuple[int, str]]) -> None:
    assert stages(layers) == parts


def test_few_layers_have_their_names() -> None:
    ax = axes(["stem", "one", "two"])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["stem", "one", "two"]
    assert list(ax.get_xticks()) == [1, 2, 3]
    assert written(ax) == []
    assert [label.get_text() for label in axes([""]).get_xticklabels()] == ["the model itself"]


def test_long_names_keep_their_ends_and_get_room() -> None:
    names = [f"encoder.layers.{n}.self_attention.out_proj" for n in range(3)]
    ax = axes(names)
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert all(len(text) == 22 and name.endswith(text[1:]) for text, name in zip(shown, names, strict=True))
    assert room_for_names(pd.DataFrame({"index": [1, 2, 3], "layer": names})) > 0.3
    assert room_for_names(pd.DataFrame({"index": [1, 2], "layer": ["0", "1"]})) == 0


def test_many_layers_have_lines_where_their_parts_begin() -> None:
    ax = axes(RESNET, RESNET)
    assert [line.get_xdata()[0] for line in ax.lines] == [1.5, 7.5, 13.5, 19.5]
    assert written(ax) == ["layer1", "layer2", "layer3", "fc"]


def test_numbered_blocks_without_room_for_their_names_have_their_numbers() -> None:
    blocks = [f"encoder.layer_{n}.{part}" for n in range(12) for part in ("query", "key", "value", "out", "up", "down")]
    assert written(axes(["embedding", *blocks])) == [str(n) for n in range(12)]


def test_parts_without_room_for_their_names_have_lines_alone() -> None:
    ax = axes(["conv1", *(f"layer{n}.{b}" for n in (1, 2, 3) for b in range(36)), "fc"])
    assert len(ax.lines) == 4
    assert written(ax) == ["layer1", "layer2", "layer3"]


def test_layers_that_networks_do_not_share_are_not_named() -> None:
    ax = axes(RESNET, VGG)
    assert not ax.lines
    assert written(ax) == []
