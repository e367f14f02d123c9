"""Results of several processes together are those of one process on all their examples, and of one say whose they are.

`oracles.ranks` is what every process runs. Expected values are computed here, by hooks and loops over all examples.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import oracles.ranks
import pytest
import torch
import torch.nn.functional as F
from conformance import over_ranks
from oracles.ranks import (
    Batch,
    Residual,
    Sequences,
    attending,
    batches,
    even_batches,
    names,
    network,
    sequences,
    tokens,
    watched,
)
from torch import Tensor, nn

import gradlab as gl
from gradlab.probes.input_gradients import STATISTICS, gradient_statistics

Found = list[dict[str, Any]]

EIGHT = (
    "responses",
    "response_gradients",
    "sharded_parameter_gradients",
    "input_gradients",
    "example_gradients",
    "example_rows",
    "signal",
    "attention",
    "watch",
    "split_responses",
    "mesh_responses",
    "split_response_gradients",
)
"""The checks of eight processes."""

SPLIT = ("norm", "up", "down", "head")
LAYERS = ("stem", "blocks.0", "blocks.1", "head")
DIFFER = {
    "local_responses",
    "group_of_one",
    "group_of_others",
    "examples_without_averages",
    "sharded_responses_alone",
    "split_responses_alone",
    "one_is_missing",
    "sinks_of_the_watch",
}


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.thorough)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of several processes has found."""
    return found_by(request.param, tmp_path_factory.mktemp("ranks"))


def found_by(world: int, folder: Path, *checks: str) -> Found:
    """What each of some processes has found by some checks, or by all."""
    command = [sys.executable, oracles.ranks.__file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(world), str(folder), *checks], stderr=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    try:
        for process in processes:
            _, said = process.communicate(timeout=280)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]


def column(found: Any, name: str, key: str = "layer") -> dict[str, Any]:
    """The values of a column by layer, of the last step where there are several."""
    return {row[key]: row[name] for row in found["rows"]}


def concatenated(found: Found, step: int = 0) -> Batch:
    """One step's batches of all ranks as one."""
    data = [even_batches(rank)[step] for rank in range(len(found))]
    return torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])


def outputs(model: Residual, x: Tensor, **options: bool) -> dict[str, Tensor]:
    """The response of each layer."""
    kept: dict[str, Tensor] = {}
    modules = {"stem": model.norm, **{name: model.get_submodule(name) for name in (*LAYERS[1:], "detour")}}
    handles = [
        module.register_forward_hook(lambda _, args, out, name=name: kept.setdefault(name, out))
        for name, module in modules.items()
    ]
    kept["output"] = model(x, **options)
    for handle in handles:
        handle.remove()
    return kept


def responses(data: list[Batch], **options: bool) -> dict[str, Tensor]:
    """The responses of each layer to all batches, flat."""
    model = network()
    with torch.no_grad():
        each = [outputs(model, x, **options) for x, _ in data]
    return {name: torch.cat([kept[name].flatten() for kept in each]) for name in each[0]}


def every_batch(found: Found) -> list[Batch]:
    return [batch for rank in range(len(found)) for batch in batches(rank)]


@pytest.mark.slow
def test_all_ranks_have_the_same_result(found: Found) -> None:
    assert {name for name in names() if any(rank[name] != found[0][name] for rank in found)} == DIFFER


@pytest.mark.slow
@pytest.mark.parametrize("check", ["responses", "exact_responses", "compiled_responses"])
def test_responses_are_those_to_all_examples(found: Found, check: str) -> None:
    expected = responses(every_batch(found))
    for name in LAYERS:
        assert column(found[0][check], "count")[name] == expected[name].numel()
        assert column(found[0][check], "mean")[name] == pytest.approx(expected[name].mean().item(), rel=1e-12)
        assert column(found[0][check], "std")[name] == pytest.approx(expected[name].std(correction=0).item(), rel=1e-12)
    assert found[0][check]["notes"][-1] == f"measured on the examples of all {len(found)} ranks"


@pytest.mark.slow
def test_channels_are_those_of_all_examples(found: Found) -> None:
    with torch.no_grad():
        stem = torch.cat([outputs(network(), x)["stem"].transpose(0, 1).flatten(1) for x, _ in every_batch(found)], 1)
    rows = [row for row in found[0]["channels"]["rows"] if row["layer"] == "stem"]
    assert [row["std"] for row in rows] == pytest.approx(stem.std(1, correction=0).tolist(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["local_responses", "group_of_one", "sharded_responses_alone"])
def test_one_rank_alone_says_whose_numbers_it_has(found: Found, check: str) -> None:
    for rank, its in enumerate(found):
        data = batches(rank)[:1] if check.startswith("sharded") else batches(rank)
        assert column(its[check], "std")["head"] == pytest.approx(responses(data)["head"].std(correction=0).item())
        assert any(f"rank {rank}" in note for note in its[check]["notes"])


@pytest.mark.slow
def test_what_ran_on_one_rank_is_measured_and_said(found: Found) -> None:
    expected = responses(batches(1), detour=True)["detour"]
    its = found[0]["one_ran_a_detour"]
    assert column(its, "std")["detour"] == pytest.approx(expected.std(correction=0).item(), rel=1e-12)
    assert [row["layer"] for row in its["rows"]] == ["stem", "blocks.0", "blocks.1", "detour", "head"]
    assert any(note.startswith("detour: did not run on rank") for note in its["notes"])
    assert not any("not measured" in note for note in its["notes"])
    rest = responses([batch for rank in range(1, len(found)) for batch in batches(rank)])
    assert column(found[0]["one_saw_nothing"], "std")["head"] == pytest.approx(rest["head"].std(correction=0).item())


@pytest.mark.slow
@pytest.mark.parametrize("check", ["response_gradients", "sharded_response_gradients", "compiled_response_gradients"])
def test_response_gradients_are_those_of_the_mean_loss_over_all_examples(found: Found, check: str) -> None:
    for step in (0, 1):
        x, y = concatenated(found, step)
        kept = outputs(network(), x)
        gradients = torch.autograd.grad(F.cross_entropy(kept["output"], y), [kept[name] for name in LAYERS])
        rows = {row["layer"]: row for row in found[0][check]["rows"] if row["step"] == step and not row["block"]}
        for name, gradient in zip(LAYERS, gradients, strict=True):
            norm = gradient.norm().item()
            assert rows[name]["response_numel"] == gradient.numel()
            assert rows[name]["response_grad_norm"] == pytest.approx(norm, rel=1e-6)
            assert rows[name]["response_grad_rms"] == pytest.approx(norm / gradient.numel() ** 0.5, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["signal", "sharded_signal", "compiled_signal"])
def test_the_signal_is_that_of_one_process_on_all_examples(found: Found, check: str) -> None:
    model = network()
    with gl.BlockSignal(model) as probe:
        for step in (0, 1):
            x, y = concatenated(found, step)
            F.cross_entropy(model(x), y).backward()
    expected = probe.result().frame.set_index("block")
    for row in found[0][check]["rows"]:
        for name, value in row.items():
            if isinstance(value, float):
                wanted = 1e-6 if "grad" in name else 1e-12
                assert value == pytest.approx(float(expected[name][row["block"]]), rel=wanted, abs=1e-14), name
    assert len(found[0][check]["rows"]) == len(expected) == 2


@pytest.mark.slow
@pytest.mark.parametrize("check", ["input_gradients", "sharded_input_gradients", "compiled_input_gradients"])
def test_input_gradients_take_the_batches_of_all_ranks(found: Found, check: str) -> None:
    samples = []
    for x in (x.requires_grad_() for rank in range(len(found)) for x, _ in even_batches(rank)):
        (gradient,) = torch.autograd.grad(network()(x).sum(), x)
        # An image at which every ReLU is off has no direction, and is left out.
        rows = gradient.flatten(1)
        samples.append(gradient_statistics(rows[rows.norm(dim=1) > 0]))
    expected = torch.stack(samples).mean(0).tolist()
    its = column(found[0][check], "value", "statistic")
    assert [its[name] for name in STATISTICS] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", ["parameter_gradients", "sharded_parameter_gradients", "compiled_parameter_gradients"]
)
def test_parameter_gradients_are_those_of_the_mean_loss(found: Found, check: str) -> None:
    model = network()
    x, y = concatenated(found, 1)
    F.cross_entropy(model(x), y).backward()
    its = column(found[0][check], "grad_norm")
    for name in LAYERS:
        assert its[name] == pytest.approx(model.get_submodule(name).weight.grad.norm().item(), rel=1e-6)


def example_gradients(x: Tensor, y: Tensor, layer: str) -> Tensor:
    """The gradient of a layer's weight, or of all parameters, of each example, one by one; shape (N, p)."""
    model = network()
    rows = []
    for each, label in zip(x, y, strict=True):
        model.zero_grad()
        F.cross_entropy(model(each[None]), label[None]).backward()
        chosen = model.parameters() if layer == "total" else [model.get_submodule(layer).weight]
        rows.append(torch.cat([value.grad.flatten() for value in chosen if value.grad is not None]))
    return torch.stack(rows)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [*LAYERS, "total"])
@pytest.mark.parametrize("check", ["example_gradients", "example_gradients_of_sums", "compiled_example_gradients"])
def test_gradients_of_examples_are_those_of_all_ranks(found: Found, check: str, layer: str) -> None:
    """Variance, noise scale and diversity are written out; of pairs, those of one rank count."""
    rows = example_gradients(*concatenated(found, 1), layer)
    n, mean = len(rows), rows.mean(0)
    variance = (rows - mean).square().sum() / (n - 1)
    square = mean.square().sum() - variance / n
    (its,) = (row for row in found[0][check]["rows"] if row["layer"] == layer and row["step"] == 1)
    each = F.normalize(rows).view(len(found), -1, rows.shape[1])
    pairs = each @ each.mT - torch.eye(each.shape[1], dtype=each.dtype)
    expected = {
        "examples": n,
        "example_norm": rows.norm(dim=1).mean().item(),
        "variance": variance.item(),
        "gradient_square": square.item(),
        "diversity": (rows.square().sum() / rows.sum(0).square().sum()).item(),
        "mean_cosine": (pairs.sum() / (n * (each.shape[1] - 1))).item(),
    }
    assert {name: its[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    listed = [row for row in found[0]["example_rows"]["rows"] if row["layer"] == layer and row["step"] == 1]
    assert [row["norm"] for row in listed] == pytest.approx(rows.norm(dim=1).tolist(), rel=1e-6)
    assert [row["example"] for row in listed] == [*range(n)]


@pytest.mark.slow
@pytest.mark.parametrize("check", ["examples_of_uneven_batches", "examples_without_averages"])
def test_what_the_ranks_do_not_tell_together_is_missing(found: Found, check: str) -> None:
    uneven = check == "examples_of_uneven_batches"
    data = [(batches(rank)[:1] if uneven else even_batches(rank)[1:])[0] for rank in range(len(found))]
    rows = example_gradients(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]), "head")
    its = [row for row in found[0][check]["rows"] if row["layer"] == "head"][-1]
    assert its["example_norm"] == pytest.approx(rows.norm(dim=1).mean().item(), rel=1e-6)
    assert its["variance"] is None
    assert any(note.endswith("variance, noise scale and diversity are missing") for note in found[0][check]["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("check", ["sharded_responses", "sharded_responses_trained"])
def test_sharded_parameters_do_not_matter_to_responses(found: Found, check: str) -> None:
    """The prediction takes the shards of the normalization from all ranks."""
    expected = responses([batches(rank)[0] for rank in range(len(found))])
    for name in LAYERS:
        assert column(found[0][check], "std")[name] == pytest.approx(expected[name].std(correction=0).item(), rel=1e-12)
    norm = network().norm
    within = (norm.weight.square() * norm.running_var / (norm.running_var + norm.eps)).mean()
    predicted = (within + norm.bias.var(correction=0)).sqrt().item()
    assert column(found[0][check], "predicted_std")["stem"] == pytest.approx(predicted)


def sequence_outputs(x: Tensor, **options: bool) -> dict[str, Tensor]:
    """The response of each layer of the model that tensor parallelism splits; that of a layer has a gradient."""
    model, kept = Sequences(**options), {}
    for name in SPLIT:
        model.get_submodule(name).register_forward_hook(lambda _, args, out, name=name: kept.setdefault(name, out))
    kept["output"] = model(x)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens", "mesh"])
def test_responses_of_split_layers_are_those_of_whole_ones(found: Found, kind: str) -> None:
    """The embedding's response is that of the norm behind it."""
    its = found[0][f"{kind}_responses"]
    replicas = range(its["rows"][0].get("replicas", 1))
    kept = [sequence_outputs(sequences(number)[0][0]) for number in replicas]
    for layer, name in zip(("embed", "up", "down", "head"), SPLIT, strict=True):
        expected = torch.cat([each[name].detach().flatten() for each in kept])
        assert column(its, "count")[layer] == expected.numel()
        assert column(its, "mean")[layer] == pytest.approx(expected.mean().item(), rel=1e-12, abs=1e-14)
        assert column(its, "std")[layer] == pytest.approx(expected.std(correction=0).item(), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens"])
def test_gradients_by_responses_of_split_layers_are_those_of_whole_ones(found: Found, kind: str) -> None:
    (x, y) = sequences(0)[0]
    kept = sequence_outputs(x)
    gradients = torch.autograd.grad(F.cross_entropy(kept["output"], y), [kept[name] for name in SPLIT])
    its = found[0][f"{kind}_response_gradients"]
    for layer, gradient in zip(("embed", "up", "down", "head"), gradients, strict=True):
        assert column(its, "response_grad_norm")[layer] == pytest.approx(gradient.norm().item(), rel=1e-6)
        assert column(its, "response_numel")[layer] == gradient.numel()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["split", "split_tokens"])
def test_other_gradients_of_a_split_model_are_those_of_the_whole(found: Found, kind: str) -> None:
    (x, y) = sequences(0)[0]
    model = Sequences()
    F.cross_entropy(model(x), y).backward()
    its = column(found[0][f"{kind}_parameter_gradients"], "grad_norm")
    for layer in ("embed", "up", "down", "head"):
        assert its[layer] == pytest.approx(model.get_submodule(layer).weight.grad.norm().item(), rel=1e-6)
    x = x.requires_grad_()
    (gradient,) = torch.autograd.grad(Sequences(pooled=True)(x).sum(), x)
    values = column(found[0][f"{kind}_input_gradients"], "value", "statistic")
    expected = gradient_statistics(gradient.flatten(1)).tolist()
    assert [values[name] for name in STATISTICS] == pytest.approx(expected, rel=1e-6)


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
@pytest.mark.parametrize("check", ["watch", "sharded_watch", "compiled_watch"])
def test_a_watch_records_the_examples_of_all_ranks(found: Found, check: str) -> None:
    """As that of one process does, whose batches hold the examples of all ranks."""
    model = network()
    if check.startswith("compiled"):
        model.detour.requires_grad_(False)
    expected = watched(model, [concatenated(found, step) for step in (0, 1)]).frame
    keys = ["step", "layer", "statistic"]
    wanted = {tuple(row[key] for key in keys): row["value"] for row in expected.to_dict("records")}
    its = {tuple(row[key] for key in keys): row["value"] for row in found[0][check]["rows"]}
    assert its.keys() == wanted.keys()
    for key, value in its.items():
        moment = key[0] == 0 and key[2] in ("response_std", "response_mean", "response_max", "dead_units")
        assert value == pytest.approx(wanted[key], rel=1e-12 if moment else 1e-6, abs=1e-14), key


@pytest.mark.slow
def test_the_first_rank_writes_to_sinks_and_all_are_alerted(found: Found) -> None:
    written = [its["sinks_of_the_watch"]["rows"][0]["rows"] for its in found]
    assert written == [len(found[0]["watch"]["rows"]), *[0] * (len(found) - 1)]
    assert all("the gradient is exactly 0" in its["alerts_of_the_watch"]["error"] for its in found)


@pytest.mark.slow
@pytest.mark.parametrize("check", ["attention", "sharded_attention", "compiled_attention"])
def test_attention_is_that_of_all_examples(found: Found, check: str) -> None:
    model, x = attending(), [tokens(rank)[0][0] for rank in range(len(found))]
    with torch.no_grad():
        q, k, _ = F.linear(torch.cat(x), model.self_attn.in_proj_weight, model.self_attn.in_proj_bias).chunk(3, -1)
    q, k = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in (q, k))
    logits = q @ k.mT / 2
    weights = logits.softmax(-1)
    rows = found[0][check]["rows"]
    entropy = -(weights * weights.log()).sum(-1).mean((0, 2))
    assert [row["entropy"] for row in rows] == pytest.approx(entropy.tolist(), rel=1e-12)
    assert [row["largest_logit"] for row in rows] == pytest.approx(logits.amax((0, 2, 3)).tolist(), rel=1e-12)
    assert {row["rows"] for row in rows} == {5 * sum(map(len, x))}


@pytest.mark.thorough
def test_eight_processes(tmp_path: Path) -> None:
    found = found_by(8, tmp_path, *EIGHT)
    test_responses_are_those_to_all_examples(found, "responses")
    test_response_gradients_are_those_of_the_mean_loss_over_all_examples(found, "response_gradients")
    test_parameter_gradients_are_those_of_the_mean_loss(found, "sharded_parameter_gradients")
    test_input_gradients_take_the_batches_of_all_ranks(found, "input_gradients")
    test_gradients_of_examples_are_those_of_all_ranks(found, "example_gradients", "total")
    test_the_signal_is_that_of_one_process_on_all_examples(found, "signal")
    test_attention_is_that_of_all_examples(found, "attention")
    test_a_watch_records_the_examples_of_all_ranks(found, "watch")
    for kind in ("split", "mesh"):
        test_responses_of_split_layers_are_those_of_whole_ones(found, kind)
    test_gradients_by_responses_of_split_layers_are_those_of_whole_ones(found, "split")


@pytest.mark.slow
def test_mixed_precision_of_shards_is_measured_as_it_is(found: Found) -> None:
    for row in found[0]["mixed_responses"]["rows"]:
        assert row["std"] == pytest.approx(row["expected"], rel=1e-6), row["layer"]


@pytest.mark.slow
def test_each_cell_of_the_page_is_a_number_or_a_refusal(found: Found) -> None:
    for check in over_ranks.cells().values():
        assert over_ranks.REFUSED.get(check, "") in found[0][check].get("error", ""), check
        assert ("error" in found[0][check]) == (check in over_ranks.REFUSED), found[0][check]["error"]


@pytest.mark.slow
def test_a_rank_that_comes_too_late_does_not_wait(found: Found) -> None:
    assert found[1]["one_is_missing"]["error"].endswith("another rank has given up waiting for rank 1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["your-model", "distributed"])
def test_the_scripts_of_the_docs_run(name: str, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / f"{name}.md"
    script = tmp_path / "train.py"
    script.write_text("\n".join(re.findall(r"^```py\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(torchrun, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("measured on the examples of all 2 ranks") == 2


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
