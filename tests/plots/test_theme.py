"""The look of figures: their size, their fonts, and colours that grey and colour-blind eyes tell apart."""

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import gradlab as gl
from gradlab.plots.style import KIND_COLORS, KIND_DASHES, kind_colors, look

# Linear RGB as seen without long-, and without middle-wavelength cones (after Viénot, Brettel and Mollon 1999).
DEFICIENT = {
    "protan": [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]],
    "deutan": [[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]],
    "normal": np.eye(3),
}


def lightness(color: object, matrix: object) -> float:
    """CIE L*, 0 to 100."""
    encoded = np.array(to_rgb(color))  # type: ignore[arg-type]
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    luminance = float(np.array([0.2126, 0.7152, 0.0722]) @ (np.array(matrix) @ linear))
    return 116 * luminance ** (1 / 3) - 16


@pytest.mark.parametrize("eyes", DEFICIENT)
def test_families_differ_in_lightness(eyes: str) -> None:
    seen = [lightness(color, DEFICIENT[eyes]) for color in list(KIND_COLORS.values())[:3]]
    assert all(abs(one - other) > 15 for one, other in combinations(seen, 2))
    assert max(seen) < 80, "dark enough for a thin line on white"


def test_a_family_has_its_colour_in_every_figure() -> None:
    kinds = [("plain", "original"), ("plain", "crelu"), ("residual", "preact"), ("highway", "relu"), (None, None)]
    looks = [look(kind, unit) for kind, unit in kinds]
    assert looks == ["plain", "looks-linear", "residual", "other", "other"]
    assert kind_colors(looks)[:4] == [KIND_COLORS[name] for name in looks[:4]]
    assert KIND_DASHES["other"] not in (KIND_DASHES["plain"], KIND_DASHES["residual"])
    first, second, third = kind_colors(["residual"] * 3)
    assert first == kind_colors(["residual"])[0]
    eye = DEFICIENT["normal"]
    assert lightness(first, eye) + 10 < lightness(second, eye) < lightness(third, eye) - 10


def test_a_users_figure_in_the_theme(tmp_path: Path) -> None:
    before = plt.rcParams["font.size"], plt.rcParams["figure.figsize"]
    with gl.theme():
        figure, axes = plt.subplots()
        axes.plot([0, 1])
        styles = {(style["color"], str(style["linestyle"])) for style in mpl.rcParams["axes.prop_cycle"]}
        axes.set_xlabel("step")
        figure.savefig(tmp_path / "mine.pdf")
    plt.close(figure)
    assert figure.get_figwidth() * 25.4 == pytest.approx(85)
    assert axes.xaxis.label.get_size() == 8
    assert len(styles) == 9
    assert b"/FontFile2" in (tmp_path / "mine.pdf").read_bytes(), "the PDF embeds its TrueType font"
    assert (plt.rcParams["font.size"], plt.rcParams["figure.figsize"]) == before
