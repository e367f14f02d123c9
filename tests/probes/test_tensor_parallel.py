"""Results of processes that share the layers of a model are those of one process that has all of it.

`oracles.tensor_ranks` is what every process runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conformance import over_ranks
from oracles.processes import Found, column, found_by, measured, names, watched
from oracles.tensor_ranks import SPLIT, Checks, Sequences, sequence_outputs, sequences

import gradlab as gl
from gradlab.probes.input_gradients import STATISTICS, gradient_statistics


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.thorough)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of several processes has found."""
    return found_by("tensor_ranks", request.param, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_all_ranks_have_the_same_result(found: Found) -> None:
    differ = {name for name in names(Checks) if any(rank[name] != found[0][name] for rank in found)}
    assert differ == {"split_responses_alone"}


@pytest.mark.slow
def test_each_cell_of_the_page_is_a_number_or_a_refusal(found: Found) -> None:
    for check in over_ranks.cells(over_ranks.SPLIT).values():
        assert over_ranks.REFUSED.get(check, "") in found[0][check].get("error", ""), check
        assert ("error" in found[0][check]) == (check in over_ranks.REFUSED), found[0][check]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens", "mesh"])
def test_responses_of_split_layers_are_those_of_whole_ones(found: Found, kind: str) -> None:
    """The embedding's response is that of the first norm."""
    its = found[0][f"{kind}_responses"]
    replicas = range(its["rows"][0].get("replicas", 1))
    kept = [sequence_outputs(sequences(number)[0][0]) for number in replicas]
    for layer, name in SPLIT.items():
        expected = torch.cat([each[name].detach().flatten() for each in kept])
        assert column(its, "count")[layer] == expected.numel()
        assert column(its, "mean")[layer] == pytest.approx(expected.mean().item(), rel=1e-12, abs=1e-14)
        assert column(its, "std")[layer] == pytest.approx(expected.std(correction=0).item(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens"])
def test_gradients_by_responses_of_split_layers_are_those_of_whole_ones(found: Found, kind: str) -> None:
    (x, y) = sequences(0)[0]
    kept = sequence_outputs(x)
    gradients = torch.autograd.grad(F.cross_entropy(kept["output"], y), [kept[name] for name in SPLIT.values()])
    its = found[0][f"{kind}_response_gradients"]
    for layer, gradient in zip(SPLIT, gradients, strict=True):
        assert column(its, "response_grad_norm")[layer] == pytest.approx(gradient.norm().item(), rel=1e-6)
        assert column(its, "response_numel")[layer] == gradient.numel()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens"])
def test_other_gradients_of_a_split_model_are_those_of_the_whole(found: Found, kind: str) -> None:
    (x, y) = sequences(0)[0]
    model = Sequences()
    F.cross_entropy(model(x), y).backward()
    its = column(found[0][f"{kind}_parameter_gradients"], "grad_norm")
    for layer in SPLIT:
        assert its[layer] == pytest.approx(model.get_submodule(layer).weight.grad.norm().item(), rel=1e-6)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(Sequences(pooled=True)(x).sum(), x)
    values = column(found[0][f"{kind}_input_gradients"], "value", "statistic")
    expected = gradient_statistics(gradient.flatten(1)).tolist()
    assert [values[name] for name in STATISTICS] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens", "split_softmax", "split_queries"])
def test_attention_of_split_heads_is_that_of_all_of_them(found: Found, kind: str) -> None:
    model, (x, _) = Sequences(), sequences(0)[0]
    with torch.no_grad():
        hidden = model.first(model.embed(x))
        logits = torch.einsum("bqh,bkh->bhqk", model.query(hidden), model.key(hidden))
    weights = logits.softmax(-1)
    rows = found[0][f"{kind}_attention"]["rows"]
    entropy = -(weights * weights.log()).sum(-1).mean((0, 2))
    assert [row["entropy"] for row in rows] == pytest.approx(entropy.tolist(), rel=1e-12)
    assert [row["largest_logit"] for row in rows] == pytest.approx(logits.amax((0, 2, 3)).tolist(), rel=1e-12)
    assert {row["rows"] for row in rows} == {x.shape[0] * x.shape[1]}


@pytest.mark.slow
def test_attention_that_is_split_out_of_sight_is_refused(found: Found) -> None:
    assert "it is not known of which parts" in found[0]["split_by_hand_attention"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens"])
def test_a_watch_of_split_layers_records_whole_ones(found: Found, kind: str) -> None:
    """As that of one process does; its second step shows what the first has done to the weights."""
    expected = watched(Sequences(), sequences(0) * 2).frame
    keys = ["step", "layer", "statistic"]
    wanted = {tuple(row[key] for key in keys): row["value"] for row in expected.to_dict("records")}
    its = {tuple(row[key] for key in keys): row["value"] for row in found[0][f"{kind}_watch"]["rows"]}
    assert its.keys() == wanted.keys()
    assert 0 < wanted[0, "up", "dead_units"] < 1
    for key, value in its.items():
        moment = key[0] == 0 and key[2] in ("response_std", "response_mean", "response_max", "dead_units")
        assert value == pytest.approx(wanted[key], rel=1e-12 if moment else 1e-6, abs=1e-14), key


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens", "split_channels"])
def test_the_signal_of_split_blocks_is_that_of_whole_ones(found: Found, kind: str) -> None:
    model = Sequences()
    probe = measured(gl.BlockSignal(model), model, sequences(0))
    expected = probe.result().frame.to_dict("records")
    rows = found[0][f"{kind}_signal"]["rows"]
    assert len(rows) == len(expected) == 2
    for row, wanted in zip(rows, expected, strict=True):
        for name, value in row.items():
            if isinstance(value, float):
                precision = 1e-6 if "grad" in name else 1e-12
                assert value == pytest.approx(wanted[name], rel=precision, abs=1e-14), name


@pytest.mark.slow
def test_tokens_of_which_ranks_have_parts_are_not_compared(found: Found) -> None:
    assert "parts of its tokens" in found[0]["split_tokens_compared_signal"]["error"]


@pytest.mark.slow
def test_shards_that_are_copied_are_those_of_all_examples(found: Found) -> None:
    x, y = (torch.cat(parts) for parts in zip(*(sequences(rank)[0] for rank in range(len(found))), strict=True))
    kept, model = sequence_outputs(x), Sequences()
    for layer, name in SPLIT.items():
        std = kept[name].std(correction=0).item()
        assert column(found[0]["hybrid_responses"], "std")[layer] == pytest.approx(std, rel=1e-12)
    F.cross_entropy(model(x), y).backward()
    norms = {layer: model.get_submodule(layer).weight.grad.norm().item() for layer in SPLIT}
    its = column(found[0]["hybrid_parameter_gradients"], "grad_norm")
    assert {layer: its[layer] for layer in SPLIT} == pytest.approx(norms, rel=1e-6)
    (gradient,) = torch.autograd.grad(F.cross_entropy(kept["output"], y), [kept["up"]])
    recorded = {row["statistic"]: row["value"] for row in found[0]["hybrid_watch"]["rows"] if row["layer"] == "up"}
    assert recorded["response_std"] == pytest.approx(kept["up"].std(correction=0).item(), rel=1e-12)
    assert recorded["response_grad_rms"] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-6)
    assert recorded["grad_norm"] == pytest.approx(norms["up"], rel=1e-6)
    assert {row["count"] for row in found[0]["hybrid_signal"]["rows"]} == {kept["first"].numel()}


@pytest.mark.thorough
def test_four_processes(tmp_path: Path) -> None:
    checks = [f"hybrid_{name}" for name in ("responses", "signal", "parameter_gradients", "watch")]
    found = found_by("tensor_ranks", 4, tmp_path, *checks, "mesh_responses", "split_signal", "split_watch")
    test_shards_that_are_copied_are_those_of_all_examples(found)
    test_responses_of_split_layers_are_those_of_whole_ones(found, "mesh")
    test_the_signal_of_split_blocks_is_that_of_whole_ones(found, "split")
    test_a_watch_of_split_layers_records_whole_ones(found, "split")


@pytest.mark.thorough
def test_eight_processes(tmp_path: Path) -> None:
    kinds = ("split", "split_tokens")
    ends = ("responses", "response_gradients", "signal", "attention", "watch")
    found = found_by(
        "tensor_ranks", 8, tmp_path, "mesh_responses", *(f"{kind}_{end}" for kind in kinds for end in ends)
    )
    test_responses_of_split_layers_are_those_of_whole_ones(found, "mesh")
    for kind in kinds:
        test_responses_of_split_layers_are_those_of_whole_ones(found, kind)
        test_gradients_by_responses_of_split_layers_are_those_of_whole_ones(found, kind)
        test_the_signal_of_split_blocks_is_that_of_whole_ones(found, kind)
        test_attention_of_split_heads_is_that_of_all_of_them(found, kind)
        test_a_watch_of_split_layers_records_whole_ones(found, kind)
