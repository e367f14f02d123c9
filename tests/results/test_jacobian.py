"""The result of Jacobians: what it says, how it is drawn, and that it comes back from its files."""

from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

import gradlab as gl


def result() -> gl.JacobianResult:
    rows = [
        {
            "seed": seed,
            "example": 0,
            "probe": probe,
            "singular_value": value,
            "weight": weight,
            "outputs": 4,
            "inputs": 5,
        }
        for seed in range(3)
        for probe in range(2)
        for value, weight in ((1.0, 0.25), (1.0 + seed, 0.5), (4.0, 0.25))
    ]
    law = {"mean_square": 8.0, "deviation": 0.25, "singular_value": [1.0, 2.0], "density": [0.5, 0.5]}
    return gl.JacobianResult.from_rows("net", rows, ["a note"], {"name": "net", "part": "body", "law": law})


def test_findings_and_summary_are_computed() -> None:
    # Mean squares of the seeds: 4.25 + (1, 4, 9) / 2.
    mean, spread = result().findings()
    error = pd.Series([4.75, 6.25, 8.75]).sem()
    assert mean == (
        f"net: the mean squared singular value of the Jacobian is 6.58 ± {error:.2g}; theory predicts 8, "
        f"{(8 - 79 / 12) / error:.1f} standard errors from it."
    )
    assert "with a standard deviation of 0.25." in mean.rule
    assert spread.startswith("net: 58% of the singular values lie between 1/2 and 2, and the largest is 4.")
    row = result().summary().iloc[0]
    assert row["mean square"] == pytest.approx(79 / 12)
    assert (row["median"], row["largest"], row["theory"]) == (2.0, 4.0, 8.0)


def test_saved_and_loaded(tmp_path: Path) -> None:
    saved = result()
    saved.save(tmp_path, ("svg",))
    loaded = gl.Result.load(tmp_path)
    assert isinstance(loaded, gl.JacobianResult)
    pd.testing.assert_frame_equal(loaded.frame, saved.frame, check_dtype=False)
    assert loaded.findings() == saved.findings()


def test_the_figure_has_a_density_and_its_law() -> None:
    figure = result().figure()
    assert isinstance(figure, Figure)
    (ax,) = figure.axes
    assert list(ax.lines[0].get_xdata()) == [1.0, 2.0]
    (stairs,) = ax.patches
    values, edges, _ = stairs.get_data()
    # All singular values are in sight, so that the area under the density is 1.
    import numpy as np

    assert (values * np.diff(np.log10(edges))).sum() == pytest.approx(1)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["net", "theory, infinite width"]
