"""Tables 1 and 2 and Fig. 6 of He et al. 2016, from fabricated runs."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from gradlab.experiments.degradation import member
from gradlab.gallery import Figure, find_figures, readme, render
from gradlab.gallery.he2016 import SHORTCUTS, UNITS, pairs
from gradlab.models import describe
from gradlab.results.degradation.cases_figure import cases_figure
from gradlab.results.degradation.result import DegradationResult

TABLE_1 = [6.61, "fail", "fail", 12.35, "fail", 8.70, 9.81, 12.86, 6.91, 12.22, "fail"]
"""The column of errors in the paper's Table 1."""
TABLE_2 = {110: [6.61, 8.17, 7.84, 6.71, 6.37], 164: [5.93, 6.50, 6.14, 5.91, 5.46]}


def trained(
    network: str, test: float, seed: int = 0, epochs: int = 15, complete: bool = True, runs: str = "runs"
) -> None:
    """Write the folder of a run, whose training error is half its test error."""
    folder = Path(runs) / (f"{network}-seed{seed}" if seed else network)
    folder.mkdir(parents=True)
    recipe = f"gradlab he2015, {epochs} epochs, batch 128, learning rate 0.1, seed {seed}"
    options = {"data": "cifar10", "seed": seed, "recipe": {"batch_size": 128}}
    record = {"network": network, "options": options, "steps": 391 * epochs, "complete": complete, "recipe": recipe}
    (folder / "record.json").write_text(json.dumps(record | {"device": "cpu", "arithmetic": "float32"}))
    epoch = np.arange(1, epochs + 1)
    errors = test + 0.5 / epoch**2 - 0.5 / epochs**2
    columns = {"step": 391 * epoch, "epoch": epoch, "learning_rate": 0.1, "train_loss": 2 * errors}
    frame = pd.DataFrame({**columns, "train_error": errors / 2, "test_loss": errors, "test_error": errors})
    frame.to_csv(folder / "metrics.csv", index=False)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def figure(name: str) -> Figure:
    (found,) = find_figures([name])
    return found


@pytest.mark.parametrize("family", [*SHORTCUTS, *UNITS])
def test_every_case_is_a_network(family: str) -> None:
    net = describe(member(family, 56))
    assert (net.series, net.depth) == (family, 56)


def test_errors_stand_beside_those_of_the_paper() -> None:
    for family in SHORTCUTS:
        trained(member(family, 56), 0.1)
    frame = figure("he2016-table1").table(figure("he2016-table1").measure(figure("he2016-table1").options()))
    assert frame["paper, 110 layers (%)"].tolist() == TABLE_1
    assert frame["test error (%)"].tolist() == pytest.approx([10.0] * len(SHORTCUTS))
    assert frame["train error (%)"].tolist() == pytest.approx([5.0] * len(SHORTCUTS))
    for family in list(UNITS)[1:]:
        trained(member(family, 56), 0.1)
    frame = figure("he2016-table2").table(figure("he2016-table2").measure(figure("he2016-table2").options()))
    assert {depth: frame[f"paper, {depth} layers (%)"].tolist() for depth in TABLE_2} == TABLE_2


def test_seeds_are_one_case_and_other_recipes_none() -> None:
    for seed, error in enumerate((0.080, 0.083, 0.081, 0.079, 0.090)):
        trained("resnet56", error, seed)
        trained("resnet56-preact", error - 0.03, seed)
    trained("resnet56-bn-after-add", 0.05, epochs=20)
    trained("resnet56-relu-preact", 0.05, complete=False)
    table = figure("he2016-table2")
    assert dict(table.options()) == {
        "depths": (56,),
        "families": ("resnet", "resnet-preact"),
        "runs": "runs",
        "train_missing": False,
        "seeds": 5,
    }
    result = table.measure(table.options())
    frame = table.table(result).set_index("case")
    assert frame["seeds"].to_dict() == dict.fromkeys(frame.index, 0) | {"original": 5, "full pre-activation": 5}
    original = frame.loc["original"]
    assert original[["test error (%)", "lowest (%)", "highest (%)"]].tolist() == pytest.approx([8.1, 7.9, 9.0])
    assert result.findings() == [
        "resnet56-preact ends with a mean test error over 5 seeds of 5.26%, lower than that of resnet56, 8.26%."
    ]


def test_the_page_has_one_row_for_all_seeds_of_a_case() -> None:
    for seed in range(3):
        trained("resnet56", 0.1, seed)
    trained("resnet56-preact", 0.05)
    render(figure("he2016-table2"), Path("out"), formats=())
    page = readme("out")
    recipe = "gradlab he2015, 15 epochs, batch 128, learning rate 0.1"
    assert f"| resnet56 | {recipe}, seeds 0, 1, 2 | 5,865 | float32 | cpu |" in page
    assert f"| resnet56-preact | {recipe}, seed 0 | 5,865 | float32 | cpu |" in page
    assert page.count("| cpu |") == 2


def test_the_depth_with_most_cases_is_drawn() -> None:
    for network in ("resnet56", "resnet56-preact", "resnet56-relu-preact", "resnet110", "resnet110-preact"):
        trained(network, 0.1)
    assert figure("he2016-table2").options()["depths"] == (56,)
    trained("resnet110-relu-preact", 0.1)
    assert figure("he2016-table2").options()["depths"] == (110,)
    assert "of one depth and recipe" in str(figure("he2016-table1").missing())


def test_runs_made_for_the_tables_lie_beside_longer_ones_of_the_same_networks() -> None:
    for network in ("resnet56", "resnet56-preact", "resnet110", "resnet110-preact"):
        trained(network, 0.1, epochs=40)
    for network in ("resnet56", "resnet56-preact", "resnet56-bn-after-add"):
        trained(network, 0.2, runs="runs/he2016")
    for name in ("he2016-table2", "he2016-fig6"):
        options = figure(name).options()
        assert (options["runs"], options["depths"]) == ("runs/he2016", (56,))
        assert figure(name).measure(options).summary()["epochs"].tolist() == [15, 15, 15]
    for network in ("resnet110-relu-preact", "resnet110-relu-before-add"):
        trained(network, 0.1, epochs=40)
    assert (figure("he2016-table2").options()["runs"], figure("he2016-table2").options()["depths"]) == ("runs", (110,))


def test_each_panel_of_fig_6_has_the_deepest_pair() -> None:
    for depth in (56, 110, 164):
        trained(f"resnet{depth}", 0.1)
        trained(f"resnet{depth}-preact", 0.05)
    trained("resnet110-bn-after-add", 0.2)
    fig6 = figure("he2016-fig6")
    result = fig6.measure(fig6.options())
    assert isinstance(result, DegradationResult)
    assert pairs(result) == {
        "BN after addition, 110 layers": {"original": "resnet110", "BN after addition": "resnet110-bn-after-add"},
        "full pre-activation, 164 layers": {"original": "resnet164", "full pre-activation": "resnet164-preact"},
    }
    rows = fig6.table(result)
    left, right, left_loss, right_loss = fig6.draw(result).axes
    assert [left.get_ylabel(), right_loss.get_ylabel()] == ["test error (%)", "training loss (nats)"]
    for errors, losses, names in zip((left, right), (left_loss, right_loss), pairs(result).values(), strict=True):
        for test, loss, network in zip(errors.lines, losses.lines, names.values(), strict=True):
            own = rows[rows["network"] == network]
            assert test.get_ydata() == pytest.approx(100 * own["test_error"])
            assert loss.get_ydata() == pytest.approx(own["train_loss"])
            assert (test.get_linestyle(), loss.get_linestyle()) == ("-", "--")
            assert test.get_color() == loss.get_color()
    assert left_loss.get_ylim() == right_loss.get_ylim()


def cases(columns: Mapping[str, Sequence[Any]]) -> pd.DataFrame:
    test = columns["test error (%)"]
    names = {"case": [f"case {place}" for place in range(len(test))], "lowest (%)": test, "highest (%)": test}
    return pd.DataFrame({**names, **columns})


def words(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_errors_beyond_the_axis_are_written() -> None:
    rows = cases(
        {
            "train error (%)": [6.0, 18.0, 75.0, math.nan],
            "test error (%)": [11.0, 23.5, 81.0, math.nan],
            "paper, 110 layers (%)": [6.61, "fail", "fail", 9.81],
        }
    )
    measured, published = cases_figure(rows, "56 layers", Drawing()).axes
    assert words(measured) == ["● 23.5", "○ 75.0  ● 81.0", "no run"]
    assert words(published) == ["fail", "fail"]
    shown = [np.isfinite(np.asarray(line.get_xdata(), dtype=float)).tolist() for line in measured.lines[1:3]]
    assert shown == [[True, True, False, False], [True, False, False, False]]


@pytest.mark.parametrize(("first", "end"), [(11.0, 12 * 1.08), (30.0, 36 * 1.08)])
def test_the_axis_ends_at_the_largest_error(first: float, end: float) -> None:
    both = [first, 1.2 * first if first > 12 else 12.0]
    rows = cases({"train error (%)": [5.0, 5.0], "test error (%)": both, "paper, 110 layers (%)": [6.61, 8.17]})
    measured, _ = cases_figure(rows, "56 layers", Drawing()).axes
    assert measured.get_xlim() == pytest.approx((0, end))
    assert words(measured) == []
