"""Several results as one, results read back, and coverage."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.results.coverage import Coverage


def measured(model: nn.Module, *inputs: Tensor, **options: object) -> gl.GradientsResult:
    with gl.ParameterGradients(model, **options) as probe:
        model(*inputs).square().sum().backward()
        probe.step()
    return probe.result()


def toy(names: list[str], column: str, **columns: object) -> gl.GradientsResult:
    rows = [{"layer": n, "index": i, "kind": "linear", "step": 0, column: 1.0 * i} for i, n in enumerate(names, 1)]
    return gl.GradientsResult.from_rows("toy", [row | columns for row in rows])


def test_join_merges_both_orders() -> None:
    joined = gl.GradientsResult.join(
        [toy(["a", "b", "d"], "grad_norm"), toy(["z", "a", "c", "d", "e"], "response_grad_rms")]
    )
    assert joined.frame["layer"].tolist() == ["z", "a", "c", "b", "d", "e"]
    assert joined.frame["index"].tolist() == [1, 2, 3, 4, 5, 6]
    assert joined.frame["grad_norm"].isna().tolist() == [True, False, True, False, False, True]
    assert not joined.frame["shortcut"].any()


def test_join_keeps_an_order_that_is_complete() -> None:
    first = toy(["a", "b"], "grad_norm")
    joined = gl.GradientsResult.join([first, toy(["b"], "response_grad_rms")])
    assert joined.frame["index"].tolist() == [1, 2]
    assert joined.frame["response_grad_rms"].isna().tolist() == [True, False]


def test_two_unnamed_models_are_distinguished(tmp_path: Path) -> None:
    both = gl.GradientsResult.concat([measured(nn.Sequential(nn.Linear(3, 2)), torch.ones(1, 3)) for _ in range(2)])
    assert both.networks == ["Sequential", "Sequential (2)"]
    assert both.totals("Sequential (2)")["grad_norm"].item() > 0
    assert len(both.summary()) == 2
    both.save(tmp_path, formats=())
    again = gl.Result.load(tmp_path)
    assert isinstance(again, gl.GradientsResult)
    assert again.coverage == both.coverage
    pd.testing.assert_frame_equal(again.totals(), both.totals(), check_dtype=False)


def test_seeds_of_one_network_stay_together() -> None:
    rows = [{"layer": "a", "index": 1, "kind": "linear", "step": 0}]
    parts = [gl.GradientsResult.from_rows("net@init", rows, seed=seed) for seed in (0, 1, 0)]
    assert gl.GradientsResult.concat(parts[:2]).networks == ["net@init"]
    assert gl.GradientsResult.concat(parts).networks == ["net@init", "net@init (2)"]


def test_responses_of_two_unnamed_models() -> None:
    results = []
    for _ in range(2):
        model = nn.Sequential(nn.Linear(3, 2))
        with gl.ResponseStd(model) as probe:
            model(torch.randn(4, 3))
        results.append(probe.result())
    assert gl.ResponsesResult.concat(results).networks == ["Sequential", "Sequential (2)"]
    gradients = measured(model, torch.ones(1, 3))
    with pytest.raises(UsageError, match=r"GradientsResult\.join takes results of its own kind, not ResponsesResult"):
        gl.GradientsResult.join([gradients, results[0]])
    with pytest.raises(UsageError, match="concat takes results of its own kind"):
        gl.ResponsesResult.concat([results[0], gradients])
    with pytest.raises(UsageError, match="needs at least one result"):
        gl.GradientsResult.concat([])


def test_result_load_names_the_available_results(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no result of gradlab"):
        gl.Result.load(tmp_path)
    model = nn.Sequential(nn.Linear(3, 2))
    with gl.ResponseStd(model) as probe:
        measured(model, torch.randn(4, 3)).save(tmp_path, formats=())
    probe.result().save(tmp_path, formats=())
    with pytest.raises(UsageError, match=r"2 results: choose by gl\.ResponsesResult\.load, gl\.GradientsResult\.load"):
        gl.Result.load(tmp_path)


def test_coverage_in_words() -> None:
    part = Coverage(999, 1000, 990, 990, 4, 5, {"not selected": ["a", "b", "c", "d"]})
    expected = (
        "measured 4 of 5 weight layers, 99.9 % of 1,000 parameters; not measured: a, b, c, … 4 in all (not selected)"
    )
    assert str(part) == expected
    assert Coverage.from_record(part.as_record()) == part
    almost = Coverage(9_999_999, 10_000_000, 1, 1, 1, 1)
    assert str(almost) == "measured 1 of 1 weight layer, 99.9 % of 10 M parameters"
    both = Coverage.together({"one": part, "two": part})
    assert (both.measured, both.left_out["not selected"][4]) == (1998, "two: a")
    assert Coverage(0, 0, 0, 0, 0, 0).share == 1


def test_a_layer_called_by_a_number_stays_a_text(tmp_path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    with gl.ResponseStd(model) as probe:
        model(torch.randn(2, 3, 8, 8))
    probe.result("1").save(tmp_path, formats=())
    loaded = gl.ResponsesResult.load(tmp_path)
    assert list(loaded.frame["layer"]) == ["0", "1"]
    assert loaded.networks == ["1"]
