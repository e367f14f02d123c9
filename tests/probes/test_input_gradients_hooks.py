"""InputGradients does not change the model or its training, and refuses what it cannot measure."""

import copy
import pickle
from contextlib import ExitStack

import pytest
import torch
import torch.nn.functional as F
from oracles.input_gradients import (
    MODELS,
    assert_equal,
    images,
    probed,
    small,
)
from torch import nn
from torch.autograd import forward_ad

import gradlab as gl
from gradlab.errors import GradlabError, UsageError


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("norm_grad", ["frozen", "full"])
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["resnet", "in place", "torchvision"])
def test_changes_nothing(name, context, norm_grad):
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


def test_an_input_that_requires_a_gradient_gets_its_own():
    model, x = small(), images().requires_grad_()
    with gl.InputGradients(model):
        model(x).square().sum().backward()
    expected = images().requires_grad_()
    small()(expected).square().sum().backward()
    assert torch.equal(x.grad, expected.grad)


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


def test_transforms_of_functions_are_refused():
    model, x = small(), images(3)
    with gl.InputGradients(model) as probe, torch.no_grad():
        for transform in (torch.func.grad, torch.func.vmap):
            with pytest.raises(GradlabError, match=r"inside of a torch\.func transform"):
                transform(lambda x: model(x).sum())(x if transform is torch.func.grad else x[:, None])
        for sample in (torch.func.vmap(model), torch.func.jacfwd(model)):
            with pytest.raises(GradlabError, match=r"inside of a torch\.func transform"):
                sample(x)
        with forward_ad.dual_level(), pytest.raises(GradlabError, match="dual_level"):
            model(forward_ad.make_dual(x, torch.ones_like(x)))
        model(x)
        assert len(probe.samples) == 1
    # What torch itself keeps of transforms is as it was.
    assert torch.equal(torch.func.grad(lambda x: x.sum())(x), torch.ones_like(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_batch_statistics_in_scripted_modules_are_no_constants():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))
    x, scripted = torch.randn(5, 4), copy.deepcopy(model)
    scripted[1] = torch.jit.script(scripted[1])
    found = []
    for each in (model, scripted):
        with gl.InputGradients(each, norm_grad="full") as probe:
            each(x)
        found.append(probe.result().frame["value"].tolist())
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    with gl.InputGradients(scripted) as probe:
        with pytest.raises(GradlabError, match=r"^1 is scripted, so that its batch statistics cannot"):
            scripted(x)
        scripted.eval()(x)
    assert len(probe.samples) == 1


class Always(nn.Module):
    """Batch normalization by a function, with the statistics of the batch."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("variance", torch.ones(6))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.variance, training=True)


class ByMode(Always):
    def forward(self, x):
        return F.batch_norm(x, self.mean, self.variance, training=self.training)


class Owner(nn.Module):
    """Batch normalization by a function, with what a module in it has learned and a flag of its own."""

    def __init__(self, always: bool):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.always = always

    def forward(self, x):
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=self.always)


class Told(nn.Module):
    """Batch normalization with or without the statistics of the batch, as the caller says."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x, by_batch: bool):
        return F.batch_norm(x, self.norm.running_mean, self.norm.running_var, training=by_batch)


class Caller(nn.Module):
    def __init__(self, by_batch: bool):
        super().__init__()
        self.told, self.by_batch = Told(), by_batch

    def forward(self, x):
        return self.told(x, self.by_batch)


@pytest.mark.filterwarnings("ignore:.*torch.jit.(script|trace).* is deprecated")
@pytest.mark.parametrize(
    "part",
    [
        lambda: torch.jit.script(Always().eval()),
        lambda: torch.jit.script(ByMode()),
        lambda: torch.jit.script(ByMode().eval()),
        lambda: torch.jit.trace(ByMode().eval(), torch.ones(5, 6)),
        lambda: torch.jit.trace(nn.BatchNorm1d(6), torch.ones(5, 6)).eval(),
        lambda: torch.jit.trace(nn.BatchNorm1d(6).eval(), torch.ones(5, 6)).train(),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))).eval(),
        lambda: torch.jit.script(nn.BatchNorm1d(6, track_running_stats=False)).eval(),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6, track_running_stats=False))).eval(),
        lambda: torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))),
        *(lambda always=always: torch.jit.script(Owner(always)).eval() for always in (True, False)),
        *(lambda by_batch=by_batch: torch.jit.script(Caller(by_batch)).eval() for by_batch in (True, False)),
        lambda: torch.jit.script(nn.BatchNorm1d(6)),
        lambda: torch.jit.script(nn.BatchNorm1d(6)).eval(),
    ],
)
def test_scripted_modules_that_couple_examples_are_refused(part):
    """What was traced remains in the mode that it was traced in."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), part(), nn.Tanh(), nn.Linear(6, 3))
    x = torch.randn(5, 4, requires_grad=True)
    model(x)[0].sum().backward()
    with gl.InputGradients(model) as probe:
        if x.grad[1:].any():
            with pytest.raises(GradlabError, match=r"^1 is scripted, so that its batch statistics cannot"):
                model(x)
        else:
            model(x)
            assert len(probe.samples) == 1


def test_usage():
    with pytest.raises(UsageError, match="frozen or full, not 'half'"):
        gl.InputGradients(small(), norm_grad="half")
    with torch.no_grad(), gl.InputGradients(small()) as probe:
        probe.model(images(1))
    with pytest.raises(GradlabError, match="two examples"):
        probe.result()
