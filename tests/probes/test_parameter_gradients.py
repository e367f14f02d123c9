"""ParameterGradients: norms against float64 brute force, schedules, scalers, and absent gradients."""

import math
import pickle
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create
from gradlab.stats import row_norms

FILES = {
    "resnet20": "resnet20-12fca82f.th",
    "resnet56": "resnet56-4bfd9763.th",
    "plain20": "caffe-plain20.pth",
}


def batch(n: int = 8, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, 32, 32, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def backward(model: nn.Module, n: int = 8, seed: int = 0) -> None:
    model.zero_grad()
    dtype = next(model.parameters()).dtype
    images, labels = batch(n, seed=seed)
    F.cross_entropy(model(images.to(dtype)), labels).backward()


def one_step(model: nn.Module, layers: object = None, **options: object) -> gl.GradientsResult:
    with gl.ParameterGradients(model, layers, **options) as probe:
        backward(model)
        probe.step()
    return probe.result()


@cache
def reference(spec: str) -> dict[str, tuple[float, float, int]]:
    """Gradient norm, weight norm and size of every layer's weight, by a float64 backward pass with exact sums."""
    model = gl.build(spec).double().eval()
    ((images, labels),) = gl.batches("cifar10-sample", 8, model, images=8)
    F.cross_entropy(model(images.double()), labels).backward()
    layers = {n: m.weight for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    return {name: (_norm(weight.grad), _norm(weight.detach()), weight.numel()) for name, weight in layers.items()}


def _norm(x: Tensor) -> float:
    return math.sqrt(math.fsum((x.numpy() ** 2).ravel()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", FILES)
def test_norms_of_real_checkpoints(name: str, dtype: torch.dtype, checkpoint: Callable[[str], Path]) -> None:
    spec = f"{name}@{checkpoint(FILES[name])}"
    model = gl.build(spec).to(dtype).eval()
    ((images, labels),) = gl.batches("cifar10-sample", 8, model, images=8)
    with gl.ParameterGradients(model) as probe:
        F.cross_entropy(model(images.to(dtype)), labels).backward()
        probe.step()
    frame = probe.result().frame
    expected = reference(spec)
    assert frame["layer"].tolist() == list(expected)
    tolerance = 1e-9 if dtype == torch.float64 else 5e-3
    for row in frame.itertuples():
        gradient, weight, numel = expected[row.layer]
        assert row.grad_norm == pytest.approx(gradient, rel=tolerance)
        assert row.weight_norm == pytest.approx(weight, rel=1e-12)
        assert row.numel == numel
        assert row.grad_rms == pytest.approx(gradient / numel**0.5, rel=tolerance)
        assert row.relative == pytest.approx(gradient / weight, rel=tolerance)


def test_a_convolution_before_batch_statistics_has_no_gradient_along_its_weight() -> None:
    """Scale invariance: ⟨∂L/∂W, W⟩ = 0."""
    model = gl.build("resnet20@init").double()
    with gl.batch_statistics(model), gl.ParameterGradients(model) as probe:
        backward(model)
        probe.step()
    for row in probe.result().frame.itertuples():
        weight = model.get_submodule(row.layer).weight
        along = (weight * weight.grad).sum().item()
        if row.kind == "conv3x3":
            # ε in the normalization breaks the invariance by about ε / variance.
            assert abs(along) < 1e-4 * row.grad_norm * row.weight_norm
        else:
            assert abs(along) > 1e-2 * row.grad_norm * row.weight_norm


def test_layers_are_in_order_of_execution() -> None:
    class Reversed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(4, 2)
            self.first = nn.Linear(3, 4)
            self.never = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x))

    model = Reversed()
    with gl.ParameterGradients(model) as probe:
        model(torch.randn(2, 3)).sum().backward()
        probe.step()
    frame = probe.result("reversed").frame
    assert list(zip(frame["layer"], frame["index"], strict=True)) == [("first", 1), ("last", 2), ("never", 3)]
    assert list(frame["network"].unique()) == ["reversed"]


def test_the_order_of_execution_of_a_model_that_calls_itself() -> None:
    class Tree(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.leaf = nn.Linear(4, 4), nn.Linear(4, 4)
            self.behind, self.before = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))

        def forward(self, x: Tensor, depth: int = 1) -> Tensor:
            return self.last(self(x, depth - 1) @ self.before @ self.behind) if depth else self.leaf(x)

    model = Tree()
    with gl.ParameterGradients(model) as probe:
        model(torch.randn(2, 4)).sum().backward()
        probe.step()
    assert list(probe.result().frame["layer"]) == ["leaf", "before", "behind", "last"]


def test_projections_are_marked_and_do_not_count_towards_depth() -> None:
    model = create("resnet20-B")
    result = one_step(model)
    assert len(result.frame) == 22
    assert result.frame.loc[result.frame["shortcut"], "layer"].tolist() == [
        "layer2.0.shortcut.0",
        "layer3.0.shortcut.0",
    ]
    assert result.summary()["depth"].item() == 20
    assert not result.body("CifarNet")["shortcut"].any()
    assert len(one_step(model, "*shortcut*").frame) == 2
    assert one_step(model, "bn1").frame["kind"].tolist() == ["batchnorm2d"]


@pytest.mark.parametrize(
    ("every", "steps"),
    [
        (1, [0, 1, 2, 3, 4]),
        (3, [0, 3]),
        (gl.log_spaced(1), [0, 1]),
        (lambda step: step in (2, 4), [2, 4]),
    ],
)
def test_schedules(every: object, steps: list[int]) -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    norms = []
    with gl.ParameterGradients(model, every=every) as probe:
        for step in range(5):
            model.zero_grad()
            ((step + 1.0) * model(torch.ones(1, 3)).sum()).backward()
            probe.step()
            norms.append(model[0].weight.grad.norm().item())
    frame = probe.result().frame
    assert frame["step"].tolist() == steps
    assert frame["grad_norm"].tolist() == pytest.approx([norms[step] for step in steps])


def test_a_log_spaced_schedule() -> None:
    due = gl.log_spaced(3)
    assert [step for step in range(1001) if due(step)] == [0, 1, 2, 5, 10, 22, 46, 100, 215, 464, 1000]
    assert all(gl.log_spaced(100)(step) for step in range(25))
    with pytest.raises(UsageError, match="at least 1 step per decade"):
        gl.log_spaced(0)


def test_resumed_training_goes_on_counting() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with gl.ParameterGradients(model, every=10) as probe:
        probe.steps = 19
        for _ in range(2):
            model(torch.ones(1, 3)).sum().backward()
            probe.step()
    assert probe.result().frame["step"].tolist() == [20]


class Branches(nn.Module):
    """A layer that the loss does not reach, a frozen one, and one that never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.side, self.head, self.idle = (nn.Linear(4, 4) for _ in range(4))
        self.stem.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        return self.head(x), self.side(x)


def test_absent_gradients_are_reported_as_absent() -> None:
    model = Branches()
    with gl.ParameterGradients(model) as probe:
        for _ in range(2):
            model(torch.randn(3, 4))[0].sum().backward()
            probe.step()
    result = probe.result()
    found = result.frame[result.frame["step"] == 1].set_index("layer")
    assert found["absent"].dropna().to_dict() == {"stem": "frozen", "side": "not reached", "idle": "not reached"}
    assert found["grad_norm"].isna().tolist() == [True, False, True, True]
    assert found["weight_norm"].notna().all()
    frozen, unreached = result.notes
    assert frozen.startswith("stem: frozen (requires_grad is off)")
    assert unreached.startswith("side, idle: the loss does not reach it")
    assert unreached.endswith("at 2 of 2 steps, first at step 0")


def test_gradients_that_were_cleared_before_the_step() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    with gl.ParameterGradients(model) as probe:
        model(torch.randn(2, 3)).sum().backward()
        model.zero_grad()
        probe.step()
    assert probe.result().frame["absent"].tolist() == ["cleared", "cleared"]
    assert "zero_grad() came before step()" in probe.result().notes[0]


def test_non_finite_gradients_are_named_and_do_not_poison_the_rest() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    with gl.ParameterGradients(model) as probe:
        model(torch.randn(2, 3)).sum().backward()
        model[1].weight.grad[0, 0] = float("nan")
        probe.step()
    result = probe.result()
    assert result.frame["non_finite"].tolist() == [False, True, False]
    assert result.frame["grad_norm"].isna().tolist() == [False, True, False]
    assert result.notes == ["1: the gradient holds NaN or infinite values"]


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UsageError, match="ReLU has no parameters: there is no gradient to measure"):
        gl.ParameterGradients(nn.ReLU())
    with pytest.raises(UsageError, match="no layer of Sequential matches 'conv'; it has 0"):
        gl.ParameterGradients(nn.Sequential(nn.Linear(2, 2)), "conv")
    with pytest.raises(UsageError, match="every is a number of steps from 1 on, not 0"):
        gl.ParameterGradients(nn.Linear(2, 2), every=0)
    probe = gl.ParameterGradients(nn.Linear(2, 2))
    with pytest.raises(GradlabError, match="not attached"):
        probe.step()
    with pytest.raises(GradlabError, match="measured no step"):
        probe.result()


def test_a_frozen_network() -> None:
    model = create("resnet8").requires_grad_(False)
    with gl.ParameterGradients(model) as probe:
        model(batch()[0])
        probe.step()
    result = probe.result()
    assert result.frame["absent"].eq("frozen").all()
    assert "(8 layers): frozen" in result.notes[0]


def test_a_module_without_convolution_or_linear_layer() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.LayerNorm(3))
    with gl.ParameterGradients(model) as probe:
        model(torch.tensor([[1, 1], [2, 3]])).square().sum().backward()
        probe.step()
    frame = probe.result().frame
    assert frame["kind"].tolist() == ["embedding"]
    assert frame["grad_norm"].item() == pytest.approx(model[0].weight.grad.to_dense().norm().item())


def test_a_parametrized_weight() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    with gl.ParameterGradients(model) as probe:
        model(torch.randn(5, 4)).square().sum().backward()
        probe.step()
    parts = [p.grad for p in model[0].parametrizations.weight.parameters()]
    assert probe.result().frame["grad_norm"].item() == pytest.approx(torch.cat([p.flatten() for p in parts]).norm())


def test_half_precision_gradients_are_measured_in_float64() -> None:
    """Squares of 1e-5 and sums of 300² leave the range of float16."""
    model = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False)).half()
    with gl.ParameterGradients(model) as probe:
        for layer, value in zip(model, (1e-5, 300.0), strict=True):
            layer.weight.grad = torch.full((64, 64), value, dtype=torch.float16)
        probe.step()
    expected = [64 * float(torch.tensor(value, dtype=torch.float16)) for value in (1e-5, 300.0)]
    assert probe.result().frame["grad_norm"].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("unscale", [False, True])
def test_a_scaler_is_divided_out_once(unscale: bool) -> None:
    model = create("resnet8").eval()
    expected = one_step(model).frame["grad_norm"]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=1)
    images, labels = batch()
    with gl.ParameterGradients(model, scaler=scaler) as probe:
        for _ in range(2):
            optimizer.zero_grad()
            scaler.scale(F.cross_entropy(model(images), labels)).backward()
            if unscale:
                scaler.unscale_(optimizer)
            probe.step()
            scaler.step(optimizer)
            scaler.update()
    frame = probe.result().frame
    assert scaler.get_scale() == 2.0**14
    for step in (0, 1):
        found = frame.loc[frame["step"] == step, "grad_norm"]
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize(
    "kind", [gl.ParameterGradients, gl.ExampleGradients, gl.ResponseStd, gl.ResponseGradients, gl.watch]
)
def test_flattened_parameters_are_refused(kind: Callable[..., object]) -> None:
    model = nn.Sequential(type("FullyShardedDataParallel", (nn.Linear,), {})(2, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(UsageError, match="fully_shard"):
        kind(model, *([optimizer] if kind is gl.watch else []))


def test_compiled_models_stay_compiled() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    compiled = torch.compile(model, backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with gl.ParameterGradients(compiled) as probe:
            compiled(torch.ones(1, 3)).sum().backward()
            probe.step()
    assert probe.result().frame["grad_norm"].item() == pytest.approx(math.sqrt(6))


def test_the_model_does_not_change() -> None:
    model = create("resnet8")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with gl.ParameterGradients(model) as probe:
        copied = pickle.loads(pickle.dumps(model))
        copied(batch()[0])
        assert not probe._executed
        model.eval()(batch()[0]).sum().backward()
        probe.step()
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("n", [5, 1 << 18])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_row_norms(n: int, dtype: torch.dtype) -> None:
    x = torch.randn(n, generator=torch.Generator().manual_seed(0)).to(dtype)
    shaped = x[: n - n % 4].view(-1, 1, 2, 2)
    strided = shaped.to(memory_format=torch.channels_last).transpose(0, 1)
    for tensor in (x, shaped, strided):
        found = row_norms(tensor).double().norm().item()
        assert found == pytest.approx(np.linalg.norm(tensor.double().numpy().ravel()), rel=5e-7)
    assert not row_norms(torch.cat([x, x.new_tensor([math.inf])])).isfinite().all()
