"""The result of signals: its findings, its figure and its files."""

import pandas as pd
import pytest
from matplotlib.figure import Figure

import gradlab as gl
from gradlab.results.fitting import fitted
from gradlab.results.signal.figure import PANELS, branch_marks


def rows(blocks: int, branches: tuple[str, ...], growth: float) -> list[dict]:
    return [
        {
            "block": f"h.{block}",
            "branch": branch,
            "index": block + 1,
            "call": 1,
            "stream_std": growth**block,
            "stream_mean_square": 0.1,
            "branch_std": 1.0,
            "ratio": growth ** (-2 * block),
            "cosine": 0.01,
            "stream_grad_rms": growth ** (-2 * block),
            "branch_grad_rms": 1.0,
            "stream_total_std": growth**block,
        }
        for block in range(blocks)
        for branch in branches
    ]


def result(branches: tuple[str, ...] = ("attn", "mlp"), growth: float = 2.0) -> gl.SignalResult:
    return gl.SignalResult.from_rows("net", rows(4, branches, growth), ["a note"], {"name": "net"})


def test_columns_are_in_order() -> None:
    first = ["network", "block", "branch", "index", "stream_std", "stream_mean_square", "branch_std", "ratio", "cosine"]
    assert list(result().frame.columns[:12]) == [*first, "stream_grad_rms", "branch_grad_rms", "theory"]


def test_findings_are_computed() -> None:
    stream, attention, perceptron, gradient = result().findings()
    assert stream == "net: the variance of the stream goes from 1 to 64 over 4 blocks."
    assert attention.startswith("net: the attn branch has 0.16 of the stream's variance in the median block, 1 in the ")
    assert perceptron.startswith("net: the mlp branch")
    assert gradient.endswith("is 64 times as large at the first block as at the last, a factor of 4 per block.")


def test_no_factor_is_told_that_is_rounded_to_one() -> None:
    assert result(growth=1.01).findings()[-1].endswith("as at the last, a factor of 1.02 per block.")
    # 1.0002 a block, which is 1.0006 in all.
    assert result(growth=1.0001).findings()[-1].endswith("is 1 times as large at the first block as at the last.")


def test_a_steady_stream_is_a_finding() -> None:
    assert "stays between 1 and 1.06 over 4 blocks" in result(growth=1.01).findings()[0]
    assert "stays at 1 over 4 blocks" in result(growth=1.0001).findings()[0]


def test_blocks_without_finite_values_are_told() -> None:
    one = result()
    one.frame["theory"] = 1.0
    one.frame.loc[one.frame["index"] > 2, "stream_total_std"] = float("nan")
    said = one.findings()
    assert said[0] == "net: the stream has no variance in 2 of 4 blocks, first in block 3: no value there is finite."
    assert "by 150.0% on average and 300.0% at most" in said[-1]
    assert "over 2 blocks" in said[-1].rule
    one.frame["stream_total_std"] = float("nan")
    assert "in 4 of 4 blocks, first in block 1" in one.findings()[0]
    one.frame["stream_total_std"] = 0.0
    assert "stays at 0 over 4 blocks" in one.findings()[0]


def test_theory_is_compared_if_it_is_given() -> None:
    one = result()
    one.frame.loc[one.frame["branch"] == "mlp", "theory"] = [1.0, 2.0, 4.0, 8.0 / 2**0.5]
    assert "by 25.0% on average and 100.0% at most" in one.findings()[-1]


def test_the_answer_is_above_the_table_and_notes_are_below(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    Console(width=200).print(result())
    text = capsys.readouterr().out
    assert text.index("the variance of the stream") < text.index("median ratio") < text.index("a note")


@pytest.mark.parametrize("branches", [("",), ("attn", "mlp")])
def test_saved_and_loaded(branches: tuple[str, ...], tmp_path) -> None:
    saved = result(branches)
    saved.save(tmp_path, ("svg",))
    loaded = gl.Result.load(tmp_path)
    assert isinstance(loaded, gl.SignalResult)
    assert loaded.findings() == saved.findings()
    pd.testing.assert_frame_equal(loaded.frame, saved.frame, check_dtype=False)


def test_the_figure_has_one_panel_per_quantity_and_marks_of_branches() -> None:
    several = gl.SignalResult.concat([result(), gl.SignalResult.from_rows("other", rows(4, ("",), 1.1), [], {})])
    figure = several.figure()
    assert isinstance(figure, Figure)
    assert [ax.get_title() for ax in figure.axes] == [panel.label for panel in PANELS.values()]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["net", "other", "attn", "mlp"]
    # Each branch has a line if branches differ, and each network has one line for the common stream.
    lines = [len(ax.lines) - (name == "cosine") for ax, name in zip(figure.axes, PANELS, strict=True)]
    assert lines == [2, 3, 3, 2, 3, 2]
    assert set(branch_marks(several.frame)) == {"attn", "mlp"}


def test_one_quantity_on_user_axes() -> None:
    ax = Figure().subplots()
    assert result().plot(ax, "ratio") is ax
    assert ax.get_ylabel() == "variance of branch / stream"


def test_the_table_has_means_over_seeds() -> None:
    parts = []
    for seed, growth in enumerate((2.0, 3.0)):
        parts.append(result(growth=growth))
        parts[-1].frame["seed"] = seed
    summary = gl.SignalResult.concat(parts).summary().iloc[0]
    assert summary["stream std, last"] == pytest.approx((2**3 + 3**3) / 2)
    assert summary["gradient first / last"] == pytest.approx(6.0**3)
    assert summary["×/÷"] == pytest.approx(1.5**3)
    assert summary["seeds"] == 2


def test_findings_and_table_have_the_same_means_over_seeds() -> None:
    """Of variances the arithmetic mean, which theory predicts, and of ratios of gradients the geometric one."""
    parts = [result(growth=growth) for growth in (2.0, 3.0)]
    for seed, part in enumerate(parts):
        part.frame["seed"], part.frame["theory"] = seed, 1.0
    both = gl.SignalResult.concat(parts)
    stream, *_, gradient, theory = both.findings()
    variances = [(4**block + 9**block) / 2 for block in range(4)]
    assert f"goes from 1 to {variances[-1]:.3g} over 4 blocks" in stream
    assert "is 216 times as large at the first block as at the last, a factor of 6 per block" in gradient
    off = sum(variance - 1 for variance in variances) / 4
    assert f"by {off:.1%} on average and {variances[-1] - 1:.1%} at most" in theory
    assert both.summary().iloc[0]["off theory"] == pytest.approx(off)


def test_findings_say_that_a_random_network_has_one_seed() -> None:
    one = result()
    assert not any("of one seed" in line for line in one.findings())
    one.record["networks"][0]["trained"] = False
    assert all(line.startswith("net (of one seed): ") for line in one.findings())
    one.frame["seed"] = 0
    other = gl.SignalResult.concat([one])
    other.frame = pd.concat([one.frame, one.frame.assign(seed=1)], ignore_index=True)
    assert not any("of one seed" in line for line in other.findings())


def test_in_80_characters_the_table_has_stream_gradient_and_ratio() -> None:
    shown = fitted(result().summary().astype(str), gl.SignalResult.priority, 80)
    assert {"stream std, last", "gradient first / last", "median ratio"} <= {*shown.widths}


@pytest.mark.parametrize("kind", [gl.SignalResult, gl.AttentionResult, gl.JacobianResult, gl.CoordinatesResult])
def test_what_the_legend_explains_is_in_the_order_of_columns(kind: type[gl.SignalResult]) -> None:
    assert {*kind.legend} <= {*kind.priority}
