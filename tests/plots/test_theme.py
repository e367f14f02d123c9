"""The look of figures: their size, their fonts, and colours that grey and colour-blind eyes tell apart."""

from itertools import combinations
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

import gradlab as gl
from gradlab.plots.style import KIND_COLORS, KIND_DASHES, PAPER, TICKS, depth_colors, kind_colors, look, shades

# Hue, saturation and lightness (HUSL, whose lightness is CIE L*) of each kind.
HUSL = {"residual": (245, 98, 24), "plain": (24, 98, 51), "looks-linear": (77, 95, 75), "other": (150, 97, 58)}
OURS = {
    *("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"),
    *("axes.grid", "grid.color", "axes.spines.right", "axes.spines.top"),
    *("font.sans-serif", "image.cmap", "patch.force_edgecolor"),
}

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


def assert_told_apart(colors: list[str], eyes: str) -> None:
    seen = [lightness(color, DEFICIENT[eyes]) for color in colors]
    assert all(abs(one - other) > 15 for one, other in combinations(seen, 2)), seen
    assert max(seen) < 82, "dark enough for a thin line on white"


@pytest.mark.parametrize("eyes", DEFICIENT)
def test_families_differ_in_lightness(eyes: str) -> None:
    assert_told_apart([KIND_COLORS[name] for name in ("residual", "plain", "looks-linear")], eyes)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", KIND_COLORS)
@pytest.mark.parametrize("eyes", DEFICIENT)
def test_shades_of_one_family_differ_in_lightness(eyes: str, kind: str, count: int) -> None:
    assert_told_apart(shades(kind, count), eyes)


@pytest.mark.parametrize("eyes", DEFICIENT)
def test_deeper_is_darker(eyes: str) -> None:
    seen = [lightness(color, DEFICIENT[eyes]) for color in depth_colors([8, 20, 56, 110]).values()]
    assert_told_apart(list(depth_colors([8, 20, 56, 110]).values()), eyes)
    assert seen == sorted(seen, reverse=True)


def test_a_family_has_its_colour_in_every_figure() -> None:
    kinds = [("plain", "original"), ("plain", "crelu"), ("residual", "preact"), ("highway", "relu"), (None, None)]
    looks = [look(kind, unit) for kind, unit in kinds]
    assert looks == ["plain", "looks-linear", "residual", "other", "other"]
    assert kind_colors(looks)[:3] == [KIND_COLORS[name] for name in looks[:3]]
    assert KIND_DASHES["other"] not in (KIND_DASHES["plain"], KIND_DASHES["residual"])


def test_colours_are_near_those_of_seaborns_colour_blind_palette() -> None:
    import seaborn

    palette = seaborn.color_palette("colorblind")
    places = {"residual": 0, "plain": 3, "looks-linear": 8, "other": 2}
    for kind, color in KIND_COLORS.items():
        ours, theirs = (mpl.colors.rgb_to_hsv(to_rgb(one))[0] for one in (color, palette[places[kind]]))
        assert abs(ours - theirs) < 0.03, kind


@pytest.mark.parametrize("count", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("kind", KIND_COLORS)
def test_shades_are_a_blend_of_seaborns_in_one_hue(kind: str, count: int) -> None:
    import seaborn

    hue, saturation, own = HUSL[kind]
    tones = (own, own) if count == 1 else (76, 46, 22)
    expected = seaborn.blend_palette([(hue, saturation, tone) for tone in tones], count, input="husl")
    found = [to_rgb(color) for color in shades(kind, count)]
    np.testing.assert_allclose(found, expected, atol=1.01 / 255)


def test_the_theme_is_seaborns_style_and_context_but_for_what_is_ours() -> None:
    import seaborn

    ticks, paper = seaborn.axes_style("ticks"), seaborn.plotting_context("paper", font_scale=8 / 9.6)
    assert TICKS.keys() == ticks.keys()
    assert {key for key, value in TICKS.items() if value != ticks[key]} == OURS
    assert PAPER.keys() == paper.keys()
    assert {key: PAPER[key] for key in ("axes.labelsize", "patch.linewidth")} == {
        "axes.labelsize": pytest.approx(paper["axes.labelsize"]),
        "patch.linewidth": paper["patch.linewidth"],
    }


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
