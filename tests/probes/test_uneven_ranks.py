"""Ranks that do not all do the same: what one has alone, what only some have run, who is missing.

`oracles.uneven_ranks` is what every process runs.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracles.data_ranks import batches, even_batches, every_batch, network, outputs, responses, tokens
from oracles.processes import Found, column, found_by, names
from oracles.uneven_ranks import Checks
from torch import nn

import gradlab as gl
from gradlab.probes.input_gradients import gradient_statistics
from gradlab.probes.ranks import are_stages


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.thorough)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of several processes has found."""
    return found_by("uneven_ranks", request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_all_ranks_have_the_same_result(found: Found) -> None:
    differ = {name for name in names(Checks) if any(rank[name] != found[0][name] for rank in found)}
    own = {"local_responses", "local_in_a_group", "group_of_one", "group_of_others", "one_is_missing"}
    own |= {"watch_of_fewer_steps", "shards_without_one", "watch_of_shards_on_one", "shards_of_more_ranks"}
    assert differ == own | ({"first_two"} if len(found) > 2 else set())


@pytest.mark.slow
@pytest.mark.parametrize("check", ["local_responses", "local_in_a_group", "group_of_one"])
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
        ("group_that_was_ended", "ResponseStd.result(): the process group of this probe was ended"),
        ("other_steps", "the ranks have measured different steps (1, 2"),
        ("one_is_missing", "ResponseStd.result(): rank 1 of "),
        ("gradients_of_stages", "the ranks have run different layers, as stages of a pipeline do"),
        ("watch_of_fewer_steps", "the record of step 1 by gl.watch: rank"),
        (
            "shards_of_other_steps",
            "the step of ParameterGradients: the ranks measure different steps (step 1 on rank 0",
        ),
        ("shards_without_one", "the step of ParameterGradients: rank 1 of "),
        ("watch_of_shards_on_one", "the end of a backward pass at a step that gl.watch measures: rank"),
    ],
)
def test_what_has_no_number_is_refused(found: Found, check: str, error: str) -> None:
    assert found[0][check]["error"].startswith(error)


@pytest.mark.slow
def test_a_group_of_some_ranks_has_their_examples(found: Found) -> None:
    data = [batch for rank in (0, 1) for batch in batches(rank)]
    its = found[1]["first_two"]
    assert column(its, "std")["head"] == pytest.approx(responses(data)["head"].std(correction=0).item(), rel=1e-12)
    whose = "all 2 ranks" if len(found) == 2 else "ranks 0, 1"
    assert its["notes"][-1] == f"measured on the examples of {whose}"


@pytest.mark.slow
def test_ranks_outside_of_a_group_are_not_asked_for_their_shards(found: Found) -> None:
    its = found[0]["shards_of_more_ranks"]
    assert column(its, "std")["stem"] == pytest.approx(responses(batches(0)[:1])["stem"].std(correction=0).item())
    assert column(its, "predicted_std")["stem"] is None
    assert any(note.startswith("predicted_std is missing where other ranks") for note in its["notes"])


@pytest.mark.slow
def test_a_rank_without_data_adds_nothing(found: Found) -> None:
    x = [x for x, _ in every_batch(len(found))[1:]]
    model = network()
    with torch.no_grad():
        hidden = [torch.relu(model.norm(model.stem(each))) for each in x]
        streams = [each + torch.tanh(model.blocks[0](each)) for each in hidden]
    channels = torch.cat([each.transpose(0, 1).flatten(1) for each in streams], 1)
    (row,) = (row for row in found[0]["signal_of_all_but_the_first"]["rows"] if row["block"] == "blocks.0")
    assert row["stream_std"] == pytest.approx(channels.var(1, correction=0).mean().sqrt().item(), rel=1e-12)
    count = 5 * sum(len(tokens(rank)[0][0]) for rank in range(1, len(found)))
    assert {row["rows"] for row in found[0]["attention_of_all_but_the_first"]["rows"]} == {count}
    gradients = [torch.autograd.grad(model(each.requires_grad_()).sum(), each)[0].flatten(1) for each in x]
    ranks = [gradient_statistics(rows[rows.norm(dim=1) > 0])[0].item() for rows in gradients]
    values = column(found[0]["inputs_of_all_but_the_first"], "value", "statistic")
    assert values["relative_effective_rank"] == pytest.approx(sum(ranks) / len(ranks), rel=1e-6)


@pytest.mark.slow
def test_a_rank_whose_batch_is_empty_has_no_response_and_a_loss_of_0(found: Found) -> None:
    gradients = []
    for x, y in (even_batches(rank)[0] for rank in range(1, len(found))):
        kept = outputs(network(), x)
        gradients += torch.autograd.grad(F.cross_entropy(kept["output"], y) / len(found), [kept["head"]])
    rows = found[0]["watch_of_an_empty_batch"]["rows"]
    (rms,) = (row["value"] for row in rows if (row["layer"], row["statistic"]) == ("head", "response_grad_rms"))
    assert rms == pytest.approx(torch.cat(gradients).square().mean().sqrt().item(), rel=1e-6)


@pytest.mark.slow
def test_stages_of_a_pipeline_are_one_network(found: Found) -> None:
    x, _ = even_batches(0)[0]
    model = network()
    with torch.no_grad():
        expected = {"stem": model.norm(model.stem(x)), "head": model.head(x.mean((2, 3)).repeat(1, 2))}
    ran = ["stem", "head", "detour"][: len(found)]
    assert [row["layer"] for row in found[0]["stages"]["rows"]] == ran
    for layer, response in expected.items():
        std = column(found[0]["stages"], "std")[layer]
        assert std == pytest.approx(response.std(correction=0).item(), rel=1e-12)


@pytest.mark.parametrize(
    ("ran", "stages"),
    [
        (["ab", "ab"], False),
        (["ab", "", "b"], False),
        (["a", "bc", "ab"], False),
        (["a", "b"], True),
        (["a", "bc", "", "a", "c"], True),
    ],
)
def test_stages_may_have_several_ranks_each(ran: list[str], stages: bool) -> None:
    """Given by the layers that each rank has run, a letter each."""
    assert are_stages(ran) == stages


@pytest.mark.slow
def test_probes_within_probes_have_what_each_has_alone(found: Found) -> None:
    data = [[even_batches(rank)[step] for rank in range(len(found))] for step in (0, 1)]
    stds = responses([batch for step in data for batch in step])
    x, y = (torch.cat(parts) for parts in zip(*data[1], strict=True))
    kept = outputs(network(), x)
    (gradient,) = torch.autograd.grad(F.cross_entropy(kept["output"], y), [kept["head"]])
    its = found[0]["nested"]
    assert column(its, "std")["head"] == pytest.approx(stds["head"].std(correction=0).item(), rel=1e-12)
    assert column(its, "gradient")["head"] == pytest.approx(gradient.norm().item(), rel=1e-6)


@pytest.mark.slow
def test_a_rank_that_comes_too_late_does_not_wait(found: Found) -> None:
    assert found[1]["one_is_missing"]["error"].endswith("another rank has given up waiting for rank 1")


@pytest.mark.parametrize("begun", ["before the probe", "before the block", "within the block"])
@pytest.mark.parametrize("kind", [gl.ResponseStd, gl.ResponseGradients, gl.InputGradients, gl.ExampleGradients])
def test_a_result_after_the_end_of_torch_distributed_is_refused(
    kind: type, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has its own part only, which it says if that is asked for, whenever torch.distributed has begun."""
    there: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: begun in there)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    found = []
    for local in (False, True):
        there[:] = ["before the probe"]
        probe = kind(model, local=local)
        there.append("before the block")
        with probe:
            there.append("within the block")
            model(torch.randn(5, 3)).square().sum().backward()
            getattr(probe, "step", int)()
        found.append(probe)
    there.clear()
    with pytest.raises(gl.GradlabError, match=r"torch.distributed was ended, .* all of ranks 0, 1, 2, 3"):
        found[0].result()
    assert any(note.startswith("rank 2 of 4: ") for note in found[1].result().notes)


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize(
    "kind", [gl.ResponseStd, gl.ResponseGradients, gl.InputGradients, gl.BlockSignal, gl.AttentionStatistics]
)
def test_a_torch_distributed_that_begins_and_ends_within_the_block_is_known(
    kind: type, local: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass within it makes a process one of several, without any step."""
    there: list[str] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(there))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 4)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 2)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    with kind(model, local=local) as probe:
        there.append("begun")
        model(torch.randn(2, 5, 8)).square().sum().backward()
        there.clear()
    if local:
        assert any(note.startswith("rank 2 of 4: ") for note in probe.result().notes)
        return
    with pytest.raises(gl.GradlabError, match=r"torch.distributed was ended, .* all of ranks 0, 1, 2, 3"):
        probe.result()


def test_other_ranks_than_those_that_have_measured_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    world = [4]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: bool(world))
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world[0])
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    model = nn.Linear(3, 4)
    with gl.ResponseStd(model) as probe:
        model(torch.randn(5, 3))
    world.clear()
    with pytest.raises(gl.GradlabError, match="was ended"):
        probe.result()
    world.append(1)
    with pytest.raises(gl.GradlabError, match="ranks 0, 1, 2, 3 before, rank 0 now"):
        probe.result()


@pytest.mark.parametrize("ranks", [1, 4])
def test_unmerged_gradients_say_so_after_the_end_of_torch_distributed(
    ranks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nn.Linear(3, 4)
    with gl.ParameterGradients(model) as probe:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
        model(torch.randn(5, 3)).square().sum().backward()
        probe.step()
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    notes = probe.result().notes
    assert any(note.startswith("gradients are those that the parameters of this process") for note in notes) == (
        ranks > 1
    )


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
