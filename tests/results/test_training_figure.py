"""The figures of trainings: runs of one length, the axis of the paper, and its numbers for comparable runs."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

from gradlab.results.degradation.figure import last_errors_figure
from gradlab.results.training.figure import errors_figure


def curves(lengths: dict[str, int], start: float = 0.5, end: float = 0.05) -> pd.DataFrame:
    """Errors that fall over ten evaluations, by network and last step."""
    parts = []
    for network, last in lengths.items():
        share = [place / 10 for place in range(1, 11)]
        error = [start * (end / start) ** part for part in share]
        kind, depth = ("plain", network[5:]) if network.startswith("plain") else ("residual", network[6:])
        steps = [round(last * part) for part in share]
        part = pd.DataFrame({"network": network, "step": steps, "train_error": error, "test_error": error})
        parts.append(part.assign(network_kind=kind, network_depth=int(depth)))
    return pd.concat(parts, ignore_index=True)


def drawn(figure: Figure) -> list[list[str]]:
    """The networks in the legend of each panel."""
    return [[text.get_text() for text in ax.get_legend().get_texts()] for ax in figure.axes]


def test_networks_are_in_order_of_depth() -> None:
    lengths = dict.fromkeys(["plain56", "resnet110", "plain20", "resnet20", "resnet56"], 64_000)
    figure = errors_figure(curves(lengths), Figure())
    assert drawn(figure) == [["plain20", "plain56"], ["resnet20", "resnet56", "resnet110"]]
    assert figure.get_supxlabel() == ""


def test_runs_of_another_length_are_named_and_not_drawn() -> None:
    lengths = {"plain20": 64_000, "resnet20": 64_000, "resnet56": 1_560}
    figure = errors_figure(curves(lengths), Figure())
    assert drawn(figure) == [["plain20"], ["resnet20"]]
    assert figure.get_supxlabel() == "Not drawn, of another length: resnet56 (1,560 steps)."


def test_the_longest_of_equally_common_lengths_is_drawn() -> None:
    figure = errors_figure(curves({"resnet20": 100, "resnet56": 200}), Figure())
    assert drawn(figure) == [["resnet56"]]


@pytest.mark.parametrize(
    ("start", "end", "top"), [(0.9, 0.05, 20), (0.1, 0.01, 20), (0.9, 0.4, None), (1.0, 0.95, 100)]
)
def test_the_axis_is_the_papers_if_all_curves_end_within_it(start: float, end: float, top: float | None) -> None:
    shown = errors_figure(curves({"resnet20": 100}, start, end), Figure()).axes[0].get_ylim()[1]
    assert shown == pytest.approx(top) if top else 100 * end < shown < 100


def test_a_single_evaluation_is_drawn() -> None:
    ax = errors_figure(curves({"resnet20": 100}).head(1), Figure()).axes[0]
    assert [line.get_marker() for line in ax.lines] == ["o", "o"]
    assert ax.get_xlim()[1] > 10


def errors(epochs: float) -> pd.DataFrame:
    row = {"network": "resnet20", "epochs": epochs, "train error (%)": 5.0, "test error (%)": 9.0, "paper (%)": 8.75}
    return pd.DataFrame([row])


@pytest.mark.parametrize(("epochs", "marks"), [(164.1, 3), (4.0, 2), (40.0, 2)])
def test_the_papers_error_is_shown_only_for_trainings_of_its_length(epochs: float, marks: int) -> None:
    figure = last_errors_figure(errors(epochs), Figure())
    assert len(figure.axes[0].lines) == marks
    assert len(figure.legends[0].get_texts()) == marks
    without = last_errors_figure(errors(epochs).drop(columns="paper (%)"), Figure())
    assert len(without.axes[0].lines) == 2
