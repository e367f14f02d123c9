"""InputGradients against autograd example by example, finite differences, and plain loops."""

from contextlib import nullcontext

import pytest
import torch
from oracles.input_gradients import (
    MODELS,
    Checkpointed,
    assert_equal,
    images,
    one_by_one,
    probed,
    seeded,
    small,
    with_fixed_statistics,
)
from torch import nn

import gradlab as gl


@pytest.mark.parametrize("name", MODELS)
def test_frozen_is_exact_for_every_example(name):
    model, x = MODELS[name](), images(size=32 if name == "torchvision" else 16)
    expected = one_by_one(with_fixed_statistics(model, x), x)
    with gl.batch_statistics(model):
        assert_equal(probed(model, x.clone()), expected)


@pytest.mark.parametrize("norm_grad", ["frozen", "full"])
@pytest.mark.parametrize("name", MODELS)
def test_eval_mode_is_exact_for_every_example(name, norm_grad):
    model, x = MODELS[name](), images(size=32 if name == "torchvision" else 16)
    assert_equal(probed(model, x.clone(), norm_grad=norm_grad), one_by_one(model, x))


def test_full_equals_central_differences_of_the_sum_over_all_examples():
    model, x = small(), images()
    step, places = 1e-6, [(0, 0, 3, 4), (2, 1, 15, 0), (4, 2, 8, 8)]
    with gl.batch_statistics(model), torch.no_grad():
        gradients = probed(model, x, norm_grad="full")
        for place in places:
            up, down = x.clone(), x.clone()
            up[place] += step
            down[place] -= step
            slope = (model(up).sum() - model(down).sum()) / (2 * step)
            assert gradients[place].item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-7)


def test_frozen_and_full_differ_by_batch_statistics():
    model, x = small(), images()
    with gl.batch_statistics(model):
        frozen, full = probed(model, x), probed(model, x, norm_grad="full")
    assert (frozen - full).norm() > 0.1 * full.norm()


def test_training_mode_is_measured_with_the_batch_it_sees():
    model, x = small(), images()
    expected = one_by_one(with_fixed_statistics(model, x), x)
    assert_equal(probed(model.train(), x), expected)
    assert model.training


def test_normalization_fused_with_its_activation():
    timm = pytest.importorskip("timm")
    model = seeded(lambda: timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=3))
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert any(type(m) is not nn.BatchNorm2d for m in norms)
    x = images(4, 32)
    with gl.batch_statistics(model):
        gradients = probed(model, x)
    # The same by hand: running statistics are set, layer by layer, to those of the batch.
    for norm in norms:
        norm.register_forward_pre_hook(
            lambda m, args: vars(m)["_buffers"].update(
                running_mean=args[0].mean((0, 2, 3)), running_var=args[0].var((0, 2, 3), correction=0)
            )
        )
    with torch.no_grad():
        model(x)
    for norm in norms:
        norm._forward_pre_hooks.clear()
    assert_equal(gradients, one_by_one(model, x))


def test_per_example_normalizations_are_differentiated_through():
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten()))
    x = images()
    assert_equal(probed(model, x), one_by_one(model, x))


def test_activation_checkpointing_changes_nothing():
    x = images()
    with gl.batch_statistics(model := small()):
        expected = probed(model, x)
        assert_equal(probed(Checkpointed(model), x), expected)


def test_a_checkpointed_training_step_is_the_same_and_counted_once():
    steps = []
    for watched in (False, True):
        model = Checkpointed(small().train())
        with gl.InputGradients(model) if watched else nullcontext() as probe:
            model(images()).square().sum().backward()
        assert probe is None or len(probe.samples) == 1
        steps.append([p.grad for p in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*steps, strict=True))


def test_reentrant_checkpointing_is_refused_by_torch():
    with gl.InputGradients(model := Checkpointed(small(), reentrant=True)):
        with pytest.raises(RuntimeError, match="use_reentrant=False"):
            model(images())
    assert torch.is_grad_enabled()


def test_two_forward_passes_in_one_batch_each_count():
    model = small()
    with gl.InputGradients(model) as probe:
        (model(images(seed=1)).sum() + model(images(seed=2)).sum()).backward()
    assert len(probe.samples) == 2


def test_statistics_of_a_batch_are_those_of_its_rows():
    model, x = small(), images()
    with gl.batch_statistics(model):
        rows = probed(model, x).flatten(1)
        with torch.no_grad(), gl.InputGradients(model) as probe:
            model(x)
    singular = torch.linalg.svdvals(rows)
    unit = rows / rows.norm(dim=1, keepdim=True)
    pairs = torch.stack([unit[i] @ unit[j] for i in range(5) for j in range(i)])
    noise = gl.stats.noise_effective_rank
    expected = {
        "relative_effective_rank": 5 / torch.linalg.svdvals(unit)[0] ** 2 / noise(5, 768, unit=True),
        "relative_effective_rank_raw": singular.square().sum() / singular[0] ** 2 / noise(5, 768, unit=False),
        "mean_cosine": pairs.mean(),
        "mean_abs_cosine": pairs.abs().mean(),
        "row_norm_variation": rows.norm(dim=1).std(correction=0) / rows.norm(dim=1).mean(),
    }
    assert probe.samples == [pytest.approx({name: value.item() for name, value in expected.items()}, rel=1e-10)]
    frame = probe.result("mine").to_frame()
    assert dict(zip(frame["statistic"], frame["value"], strict=True)) == probe.samples[0]
    assert set(frame["network"]) == {"mine"}
    assert set(frame["depth"]) == {8}
    assert set(frame["norm"]) == {"bn"}
    assert frame["sem"].isna().all()


def test_mean_and_error_over_batches():
    model = small()
    with torch.no_grad(), gl.InputGradients(model) as probe:
        for seed in range(3):
            model(images(seed=seed))
    values = torch.tensor([sample["mean_cosine"] for sample in probe.samples], dtype=torch.float64)
    value, sem = probe.result("mine").value("mine", "mean_cosine")
    assert value == pytest.approx(values.mean().item())
    assert sem == pytest.approx(values.std().item() / 3**0.5)


def test_an_empty_batch_does_not_count():
    model, x = small(), images()
    found = []
    for batches in ([x], [x[:0], x]):
        with gl.InputGradients(model) as probe:
            for batch in batches:
                model(batch)
        found.append(probe.samples)
    assert len(found[1]) == 1
    assert found[1] == found[0]


def test_gradients_that_cannot_be_measured_are_left_out_and_counted():
    class Selective(nn.Module):
        def forward(self, x):
            flat = x.flatten(1)
            scale = torch.ones(len(x), dtype=x.dtype)
            scale[flat[:, 0] > 100], scale[flat[:, 0] < -100] = 0, torch.inf
            return flat.square().sum(1) * scale

    x = images(6, 4)
    x[1, 0, 0, 0], x[4, 0, 0, 0] = 200, -200
    model = Selective()
    with torch.no_grad(), gl.InputGradients(model) as probe:
        model(x)
    assert probe.left_out == 2
    (note,) = probe.result().notes
    assert "2 input gradients are 0, NaN or infinite" in note
    with torch.no_grad(), gl.InputGradients(model) as reference:
        model(x[[0, 2, 3, 5]])
    assert probe.samples == [pytest.approx(sample, rel=1e-12) for sample in reference.samples]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    model, x = small(), images()
    expected = probed(model, x)
    gradients = probed(model.to(dtype), x.to(dtype))
    assert gradients.dtype == dtype
    assert (gradients.double() - expected).norm() < 0.1 * expected.norm()


def test_autocast():
    model, x = small().float(), images().float()
    expected = probed(model, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        gradients = probed(model, x)
    assert (gradients - expected).norm() < 0.1 * expected.norm()


def test_compiled_models_run_eagerly():
    model, x = small(), images()
    expected = probed(model, x)
    compiled = torch.compile(model, backend="eager")
    with pytest.warns(UserWarning, match="compiled"):
        assert_equal(probed(compiled, x), expected)
