"""Results of several processes together are those of one process on all their examples.

`oracles.data_ranks` is what every process runs. Expected values are computed by hooks and loops over all examples.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conformance import over_ranks
from forked_command import environments_of_ranks, run_modules
from oracles.data_ranks import (
    LAYERS,
    Checks,
    attending,
    batches,
    even_batches,
    every_batch,
    network,
    outputs,
    responses,
    targets,
    tokens,
)
from oracles.processes import Batch, Found, column, found_by, names, watched
from torch import Tensor

import gradlab as gl
from gradlab.probes.input_gradients import STATISTICS, gradient_statistics

EXAMPLES = [
    "example_gradients",
    "example_gradients_of_sums",
    "compiled_example_gradients",
    "sharded_example_gradients",
    "sharded_head_example_gradients",
]


@pytest.fixture(scope="module", params=[2, pytest.param(3, marks=pytest.mark.thorough)])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of several processes has found."""
    return found_by("data_ranks", request.param, tmp_path_factory.mktemp("ranks"))


def concatenated(found: Found, step: int = 0) -> Batch:
    """One step's batches of all ranks as one."""
    data = [even_batches(rank)[step] for rank in range(len(found))]
    return torch.cat([x for x, _ in data]), torch.cat([y for _, y in data])


@pytest.mark.slow
def test_all_ranks_have_the_same_result(found: Found) -> None:
    differ = {name for name in names(Checks) if any(rank[name] != found[0][name] for rank in found)}
    assert differ == {
        "examples_without_averages",
        "sharded_examples_alone",
        "sharded_responses_alone",
        "sinks_of_the_watch",
    }


@pytest.mark.slow
@pytest.mark.parametrize("check", ["responses", "exact_responses", "compiled_responses"])
def test_responses_are_those_to_all_examples(found: Found, check: str) -> None:
    expected = responses(every_batch(len(found)))
    for name in LAYERS:
        assert column(found[0][check], "count")[name] == expected[name].numel()
        assert column(found[0][check], "mean")[name] == pytest.approx(expected[name].mean().item(), rel=1e-12)
        assert column(found[0][check], "std")[name] == pytest.approx(expected[name].std(correction=0).item(), rel=1e-12)
    assert f"measured on the examples of all {len(found)} ranks" in found[0][check]["notes"]


@pytest.mark.slow
def test_channels_are_those_of_all_examples(found: Found) -> None:
    with torch.no_grad():
        stem = torch.cat(
            [outputs(network(), x)["stem"].transpose(0, 1).flatten(1) for x, _ in every_batch(len(found))], 1
        )
    rows = [row for row in found[0]["channels"]["rows"] if row["layer"] == "stem"]
    assert [row["std"] for row in rows] == pytest.approx(stem.std(1, correction=0).tolist(), rel=1e-12)


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
    unmerged = [note for note in found[0][check]["notes"] if note.startswith("gradients are those that the parameters")]
    assert bool(unmerged) == (not check.startswith("sharded"))


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
@pytest.mark.parametrize("check", EXAMPLES)
def test_gradients_of_examples_are_those_of_all_ranks(found: Found, check: str, layer: str) -> None:
    """Variance, noise scale and diversity are written out; of pairs, those of one rank count."""
    rows = example_gradients(*concatenated(found, 1), layer)
    n, mean = len(rows), rows.mean(0)
    variance = (rows - mean).square().sum() / (n - 1)
    square = mean.square().sum() - variance / n
    (its,) = (row for row in found[0][check]["rows"] if row["layer"] == layer and row["step"] == 1)
    each = F.normalize(rows).view(len(found), -1, rows.shape[1])
    # An example without a gradient has no cosine.
    there = (rows.norm(dim=1) > 0).view(len(found), -1).sum(1)
    pairs = (each @ each.mT).sum() - there.sum()
    expected = {
        "examples": n,
        "example_norm": rows.norm(dim=1).mean().item(),
        "variance": variance.item(),
        "gradient_square": square.item(),
        "diversity": (rows.square().sum() / rows.sum(0).square().sum()).item(),
        "mean_cosine": (pairs / (there * (there - 1)).sum()).item(),
    }
    assert {name: its[name] for name in expected} == pytest.approx(expected, rel=1e-6)
    listed = [row for row in found[0]["example_rows"]["rows"] if row["layer"] == layer and row["step"] == 1]
    assert [row["norm"] for row in listed] == pytest.approx(rows.norm(dim=1).tolist(), rel=1e-6)
    assert [row["example"] for row in listed] == [*range(n)]


@pytest.mark.slow
def test_parameters_that_run_whole_are_measured_for_each_example(found: Found) -> None:
    """Of attention under `fully_shard`, whose output projection is applied beside its module."""
    model, layers = attending(), ("self_attn.out_proj", "linear1", "total")
    norms: dict[str, list[float]] = {layer: [] for layer in layers}
    for rank in range(len(found)):
        ((x, y),) = targets(rank)
        for each, wanted in zip(x, y, strict=True):
            model.zero_grad()
            (F.cross_entropy(model(each[None]), wanted[None])).backward()
            gradients = {name: value.grad.flatten() for name, value in model.named_parameters()}
            for layer, expected in norms.items():
                chosen = [*gradients.values()] if layer == "total" else [gradients[f"{layer}.weight"]]
                expected.append(torch.cat(chosen).norm().item())
    rows = found[0]["sharded_transformer_examples"]["rows"]
    for layer, expected in norms.items():
        assert [row["norm"] for row in rows if row["layer"] == layer] == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_what_one_rank_of_a_sharded_model_does_not_have_is_missing_or_refused(found: Found) -> None:
    for rank, its in enumerate(found):
        data = even_batches(rank)
        rows = example_gradients(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]), "head")
        (head,) = (row for row in its["sharded_examples_alone"]["rows"] if row["layer"] == "head")
        assert head["example_norm"] == pytest.approx(rows.norm(dim=1).mean().item(), rel=1e-6)
        assert head["variance"] is None
        assert any("one rank alone does not have" in note for note in its["sharded_examples_alone"]["notes"])
        assert "measure the model before fully_shard" in its["sharded_experts"]["error"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", ["examples_of_uneven_batches", "examples_without_averages", "examples_of_summed_gradients"]
)
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
@pytest.mark.parametrize("check", ["sharded_accumulating_watch", "sharded_accumulating_watch_beside_examples"])
def test_a_pass_that_leaves_shards_to_a_later_one_counts_with_its_loss(found: Found, check: str) -> None:
    model = network()
    data = [even_batches(rank) for rank in range(len(found))]
    losses = [F.cross_entropy(model(x), y) / 2 for batches in data for x, y in batches]
    loss = torch.stack(losses).sum() / len(found)
    loss.backward()
    wanted = {"loss": loss.item(), "grad_norm": model.head.weight.grad.norm().item()}
    for layer, name in (("total", "loss"), ("head", "grad_norm")):
        (value,) = (
            row["value"] for row in found[0][check]["rows"] if (row["layer"], row["statistic"]) == (layer, name)
        )
        assert value == pytest.approx(wanted[name], rel=1e-6)


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
    checks = ("responses", "response_gradients", "sharded_parameter_gradients", "input_gradients", "example_gradients")
    found = found_by("data_ranks", 8, tmp_path, *checks, "example_rows", "signal", "attention", "watch")
    test_responses_are_those_to_all_examples(found, "responses")
    test_response_gradients_are_those_of_the_mean_loss_over_all_examples(found, "response_gradients")
    test_parameter_gradients_are_those_of_the_mean_loss(found, "sharded_parameter_gradients")
    test_input_gradients_take_the_batches_of_all_ranks(found, "input_gradients")
    test_gradients_of_examples_are_those_of_all_ranks(found, "example_gradients", "total")
    test_the_signal_is_that_of_one_process_on_all_examples(found, "signal")
    test_attention_is_that_of_all_examples(found, "attention")
    test_a_watch_records_the_examples_of_all_ranks(found, "watch")


@pytest.mark.slow
def test_mixed_precision_of_shards_is_measured_as_it_is(found: Found) -> None:
    for row in found[0]["mixed_responses"]["rows"]:
        assert row["std"] == pytest.approx(row["expected"], rel=1e-6), row["layer"]


@pytest.mark.slow
def test_each_cell_of_the_page_is_a_number_or_a_refusal(found: Found) -> None:
    for check in over_ranks.cells(over_ranks.COPIED).values():
        assert over_ranks.REFUSED.get(check, "") in found[0][check].get("error", ""), check
        assert ("error" in found[0][check]) == (check in over_ranks.REFUSED), found[0][check]["error"]


def script_of(page: str, folder: Path) -> str:
    """The path of a script that a page shows in parts."""
    text, script = (Path(__file__).parents[2] / "docs" / f"{page}.md").read_text(), folder / "train.py"
    script.write_text("\n".join(re.findall(r"^```py\n(.*?)^```", text, re.DOTALL | re.MULTILINE)))
    return str(script)


@pytest.mark.parametrize("page", ["your-model", "distributed"])
def test_the_scripts_of_the_docs_run(page: str, tmp_path: Path) -> None:
    first, second = run_modules(script_of(page, tmp_path), [[], []], environments_of_ranks(2))
    assert (first + second).count("measured on the examples of all 2 ranks") == 2


@pytest.mark.thorough
@pytest.mark.parametrize("page", ["your-model", "distributed"])
def test_the_scripts_of_the_docs_run_under_torchrun(page: str, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, script_of(page, tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("measured on the examples of all 2 ranks") == 2
