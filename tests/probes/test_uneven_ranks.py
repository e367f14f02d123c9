"""Ranks that do not all do the same: what one has alone, what only some have run, who is missing.

`oracles.uneven_ranks` is what every process runs.
"""

from __future__ import annotations

import pytest
import torch
from oracles.data_ranks import batches, every_batch, responses
from oracles.processes import Found, column, found_by, names
from oracles.uneven_ranks import Checks
from torch import nn

import gradlab as gl


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.thorough)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of several processes has found."""
    return found_by("uneven_ranks", request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_all_ranks_have_the_same_result(found: Found) -> None:
    differ = {name for name in names(Checks) if any(rank[name] != found[0][name] for rank in found)}
    assert differ == {"local_responses", "group_of_one", "group_of_others", "one_is_missing"}


@pytest.mark.slow
@pytest.mark.parametrize("check", ["local_responses", "group_of_one"])
def test_one_rank_alone_says_whose_numbers_it_has(found: Found, check: str) -> None:
    for rank, its in enumerate(found):
        expected = responses(batches(rank))["head"].std(correction=0).item()
        assert column(its[check], "std")["head"] == pytest.approx(expected)
        assert any(f"rank {rank}" in note for note in its[check]["notes"])


@pytest.mark.slow
def test_what_ran_on_one_rank_is_measured_and_said(found: Found) -> None:
    expected = responses(batches(1), detour=True)["detour"]
    its = found[0]["one_ran_a_detour"]
    assert column(its, "std")["detour"] == pytest.approx(expected.std(correction=0).item(), rel=1e-12)
    assert [row["layer"] for row in its["rows"]] == ["stem", "blocks.0", "blocks.1", "detour", "head"]
    assert any(note.startswith("detour: did not run on rank") for note in its["notes"])
    assert not any("not measured" in note for note in its["notes"])
    rest = responses(every_batch(len(found))[1:])
    assert column(found[0]["one_saw_nothing"], "std")["head"] == pytest.approx(rest["head"].std(correction=0).item())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "error"),
    [
        ("group_of_others", "rank 0 is not in the process group of this probe"),
        ("other_steps", "the ranks have measured different steps (1, 2"),
        ("one_is_missing", "ResponseStd.result(): rank 1 of "),
    ],
)
def test_what_has_no_number_is_refused(found: Found, check: str, error: str) -> None:
    assert found[0][check]["error"].startswith(error)


@pytest.mark.slow
def test_a_rank_that_comes_too_late_does_not_wait(found: Found) -> None:
    assert found[1]["one_is_missing"]["error"].endswith("another rank has given up waiting for rank 1")


@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.ResponseGradients, gl.InputGradients, gl.ExampleGradients])
@pytest.mark.parametrize("ranks", [1, 4])
def test_a_local_result_names_its_rank(kind: type, ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with kind(model, local=True) as probe:
        model(torch.randn(5, 3)).square().sum().backward()
        getattr(probe, "step", int)()
    assert any(note.startswith("rank 2 of 4: ") for note in probe.result().notes) == (ranks > 1)
