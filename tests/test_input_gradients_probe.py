import copy
import pickle
from contextlib import ExitStack, nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from torchvision.models import resnet18

import gradlab as gl
from gradlab.errors import GradlabError, UsageError


def images(n=5, size=16, dtype=torch.float64, seed=0):
    return torch.randn(n, 3, size, size, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def small(name="resnet8-width=4", seed=0):
    """One of our networks in float64, its normalization away from the identity."""
    model = gl.models.create(name, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed + 1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(values, 0.5, 0.3, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator=generator)
    return model


class InPlace(nn.Module):
    """Everything that overwrites: the input, a residual sum, ReLU behind normalization."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.bn1, self.bn2, self.relu = nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        x.mul_(0.5).clamp_(-1, 1)
        x = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(x))
        out += x
        return self.fc(self.relu(out).mean((2, 3)))


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double().eval()


MODELS = {
    "resnet": small,
    "plain": lambda: small("plain8-width=4"),
    "projections": lambda: small("resnet8-B-width=4"),
    "in place": lambda: seeded(InPlace),
    "torchvision": lambda: seeded(lambda: resnet18(num_classes=4)),
}


class Fixed(nn.Module):
    """A batch normalization with the statistics of one batch, written out by hand."""

    def __init__(self, norm, mean, variance):
        super().__init__()
        self.norm, self.mean, self.variance = norm, mean, variance

    def forward(self, x):
        shape = (1, -1, 1, 1)
        unit = (x - self.mean.view(shape)) / (self.variance.view(shape) + self.norm.eps).sqrt()
        return unit * self.norm.weight.view(shape) + self.norm.bias.view(shape)


def with_fixed_statistics(model, x):
    """The model with the batch's statistics as constants, one layer after another; no gradlab in it."""
    model = copy.deepcopy(model).eval()
    for name, norm in [(n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)]:
        seen = []
        handle = norm.register_forward_pre_hook(lambda m, args, seen=seen: seen.append(args[0].clone()))
        with torch.no_grad():
            model(x.clone())
        handle.remove()
        (given,) = seen
        fixed = Fixed(norm, given.mean((0, 2, 3)), given.var((0, 2, 3), correction=0))
        parent = model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], fixed)
    return model


def one_by_one(model, x):
    """The gradient of each example's own logits, each example run alone."""
    rows = []
    for image in x:
        alone = image[None].clone().requires_grad_()
        rows.append(torch.autograd.grad(model(alone.clone()).sum(), alone)[0])
    return torch.cat(rows)


def probed(model, x, **options):
    gradients = []
    with torch.no_grad(), gl.InputGradients(model, observe=gradients.append, **options):
        model(x)
    (gradient,) = gradients
    return gradient


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12 * other.abs().max().item())


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
    # The same by hand: running statistics set, each in turn, to those of the batch.
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


class Checkpointed(nn.Module):
    """One of our networks, its stages recomputed in the backward pass."""

    def __init__(self, inner, reentrant=False):
        super().__init__()
        self.inner, self.reentrant = inner, reentrant

    def forward(self, x):
        return self.inner.fc(checkpoint(self.stages, x, use_reentrant=self.reentrant).mean((2, 3)))

    def stages(self, x):
        x = F.relu(self.inner.bn1(self.inner.conv1(x)))
        return self.inner.layer3(self.inner.layer2(self.inner.layer1(x)))


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


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("norm_grad", ["frozen", "full"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["resnet", "in place", "torchvision"])
def test_leaves_everything_as_it_was(name, context, norm_grad):
    model, x = MODELS[name](), images(4, 32)
    with gl.batch_statistics(model), context():
        expected = model(x.clone())
    before, rng = state(model), torch.get_rng_state()
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    with gl.batch_statistics(model), context(), gl.InputGradients(model, norm_grad=norm_grad) as probe:
        output = model(x.clone())
    assert torch.equal(output, expected)
    assert output.requires_grad == expected.requires_grad
    assert probe.samples
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert torch.equal(torch.get_rng_state(), rng)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_a_training_step_is_bitwise_the_same():
    steps = []
    for watched in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(MODELS["in place"](), nn.Dropout(0.5)).train()
        x = images().requires_grad_()
        if watched:
            with gl.InputGradients(model) as probe:
                model(x.clone()).square().sum().backward()
            assert len(probe.samples) == 1
        else:
            model(x.clone()).square().sum().backward()
        steps.append([x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*steps, strict=True))


def test_an_input_that_wants_a_gradient_gets_its_own():
    model, x = small(), images().requires_grad_()
    with gl.InputGradients(model):
        model(x).square().sum().backward()
    expected = images().requires_grad_()
    small()(expected).square().sum().backward()
    assert torch.equal(x.grad, expected.grad)


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
    assert probe.samples == reference.samples


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


def test_two_probes_at_once_do_not_see_each_other():
    model, x = small(), images()
    with gl.batch_statistics(model), torch.no_grad():
        with gl.ResponseStd(model) as alone:
            model(x)
        expected = probed(model, x)
        gradients = []
        with gl.ResponseStd(model) as both, gl.InputGradients(model, observe=gradients.append):
            model(x)
    assert torch.equal(gradients[0], expected)
    assert both.result().to_frame().equals(alone.result().to_frame())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_frozen_and_full_in_one_pass(context):
    model, x = small(), images()
    with gl.batch_statistics(model):
        expected = [probed(model, x, norm_grad=norm_grad) for norm_grad in ("frozen", "full", "frozen")]
        found = [[], [], []]
        with context(), ExitStack() as probes:
            for norm_grad, gradients in zip(("frozen", "full", "frozen"), found, strict=True):
                probes.enter_context(gl.InputGradients(model, norm_grad=norm_grad, observe=gradients.append))
            output = model(x)
            assert output.requires_grad == (context is torch.enable_grad)
            assert torch.is_grad_enabled() == (context is torch.enable_grad)
            assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
    for (gradient,), value in zip(found, expected, strict=True):
        assert_equal(gradient, value)
    assert not torch.overrides._get_current_function_mode_stack()


def test_copies_carry_no_hook_that_fires():
    model, x = small(), images()
    with torch.no_grad(), gl.InputGradients(model) as probe:
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert not other(x).requires_grad
        assert not probe.samples


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (nn.Embedding(4, 2), torch.zeros(2, 3, dtype=torch.long), r"floating-point inputs .* torch.int64 \(2, 3\)"),
        (nn.Identity(), "text", "not str"),
        (nn.LSTM(4, 4), torch.zeros(2, 3, 4), "need logits, a tensor with a row for each of 2 inputs, not tuple"),
        (nn.Flatten(0), torch.zeros(2, 3), r"not a tensor of shape \(6,\)"),
    ],
)
def test_models_without_input_gradients_are_refused(model, x, message):
    with gl.InputGradients(model) as probe, pytest.raises(GradlabError, match=message):
        model(x)
    assert torch.is_grad_enabled()
    with pytest.raises(GradlabError, match="saw no batch"):
        probe.result()


def test_an_output_without_the_input_in_it_is_refused():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return self.weight.expand(len(x)) if self.training else torch.ones(len(x))

    model = Constant()
    for mode in (True, False):
        with gl.InputGradients(model.train(mode)), pytest.raises(GradlabError, match="does not depend on its input"):
            model(torch.zeros(2, 3))


def test_an_exception_in_the_model_passes_and_leaves_nothing():
    class Broken(nn.Module):
        def forward(self, x):
            raise ValueError("mine")

    model = Broken()
    with torch.no_grad(), pytest.raises(ValueError, match="mine"), gl.InputGradients(model) as probe:
        model(torch.zeros(2, 3))
    assert not model._forward_hooks
    assert torch.is_grad_enabled()
    assert not torch.overrides._get_current_function_mode_stack()
    assert probe.samples == []


def test_usage():
    with pytest.raises(UsageError, match="frozen or full, not 'half'"):
        gl.InputGradients(small(), norm_grad="half")
    with torch.no_grad(), gl.InputGradients(small()) as probe:
        probe.model(images(1))
    with pytest.raises(GradlabError, match="two examples"):
        probe.result()
