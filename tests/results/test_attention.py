"""The result of attention: its findings, its figure and its files."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import gradlab as gl


def result() -> gl.AttentionResult:
    rows = [
        {
            "layer": f"h.{layer}.attn",
            "index": layer + 1,
            "head": head,
            "entropy": 2.0,
            "relative_entropy": (0.05, 0.97)[head],
            "largest_logit": 10.0 * layer + head,
            "rows": 64,
            "call": 1,
        }
        for layer in range(3)
        for head in range(2)
    ]
    return gl.AttentionResult.from_rows("net", rows, ["a note"])


def test_findings_are_computed() -> None:
    spread, logit = result().findings()
    assert spread == (
        "net: attention has 51% of the entropy of equal weights in the first layer and 51% in the last; 3 of 6 heads "
        "look at single tokens and 3 average."
    )
    assert logit == "net: the largest logit is 21, in head 1 of h.2.attn."


@pytest.mark.parametrize(
    ("entropy", "told"),
    [(0.05, "looks at single tokens."), (0.97, "averages."), (0.5, "neither looks at single tokens nor")],
)
def test_one_head_is_not_counted(entropy: float, told: str) -> None:
    row = {"layer": "attn", "index": 1, "head": 0, "entropy": 2.0, "relative_entropy": entropy, "largest_logit": 1.0}
    spread, _ = gl.AttentionResult.from_rows("net", [{**row, "rows": 64, "call": 1}], []).findings()
    assert f"in the last; its one head {told}" in spread


def test_saved_and_loaded(tmp_path: Path) -> None:
    saved = result()
    saved.save(tmp_path, ("svg",))
    loaded = gl.Result.load(tmp_path)
    assert isinstance(loaded, gl.AttentionResult)
    pd.testing.assert_frame_equal(loaded.frame, saved.frame, check_dtype=False)


def test_the_figure_has_one_dot_per_head_and_one_line_per_network() -> None:
    figure = result().figure()
    assert isinstance(figure, Figure)
    assert [len(ax.lines) for ax in figure.axes] == [2, 2]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["net", "single heads"]
    assert list(figure.axes[1].lines[1].get_ydata()) == [1, 11, 21]
    ax = Figure().subplots()
    assert result().plot(ax, "entropy").get_ylabel() == "entropy of attention (nats)"
