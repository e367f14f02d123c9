"""Figures do not depend on a user's settings, and show names unchanged."""

import subprocess
import sys
import warnings

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from gradlab.results.drawing import drawn


def curves() -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2, 3], [1e-3, 1, 1e3], marker="$7$", label="resnet8@a$b{.pt")
    axes.set_yscale("log")
    axes.set_title(r"cost $\frac$ and $x_{$")
    axes.set_xticks([1, 2], labels=["$", r"a$\b$c"])
    axes.legend()
    return figure


def plain() -> Figure:
    figure = Figure()
    figure.subplots().loglog([1, 10, 100], [1, 2, 3], label="a")
    return figure


def test_dollar_signs_in_names_are_not_formulas() -> None:
    content = drawn({"a": curves}, ("svg", "png", "pdf"))
    text = content["a.svg"].decode()
    assert "resnet8@a$b{.pt" in text
    assert r"cost $\frac$ and $x_{$" in text
    assert r"a$\b$c" in text
    assert "<tspan" in text, "powers of ten are set as such"


@pytest.fixture(scope="module")
def usual() -> dict[str, bytes]:
    return drawn({"a": plain}, ("png", "svg", "pdf"))


@pytest.mark.parametrize(
    "settings",
    [{"text.usetex": True}, {"font.size": 30, "axes.facecolor": "red"}, {"savefig.bbox": "tight", "lines.marker": "x"}],
)
def test_user_settings_do_not_change_the_bytes(settings: dict[str, object], usual: dict[str, bytes]) -> None:
    with mpl.rc_context(settings):
        assert drawn({"a": plain}, ("png", "svg", "pdf")) == usual
        assert all(mpl.rcParams[key] == value for key, value in settings.items())


def test_names_in_letters_that_the_font_lacks_are_drawn_without_a_warning() -> None:
    figure = Figure()
    figure.subplots().plot([1, 2], label="\u5b9e\u9a8c \U0001f600")
    figure.legend()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawn({"a": lambda: figure}, ("png", "pdf"), dpi=40)["a.png"]


def test_printing_a_measurement_loads_no_plotting_library() -> None:
    code = (
        "import sys, gradlab as gl\n"
        "print(gl.responses('resnet8@init', images=2, device='cpu'))\n"
        "print(sorted({'matplotlib', 'seaborn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
