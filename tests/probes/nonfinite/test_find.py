"""`find_nonfinite` on one batch: what it takes, what it says, and that the model stays as it was."""

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradlab.errors import UsageError
from gradlab.probes.nonfinite import find_nonfinite


class Log(nn.Module):
    """A layer that takes the logarithm of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def _net(*layers: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.Linear(6, 3))


BATCH = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(5) % 3


def _state(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


@pytest.mark.parametrize("layer", [nn.Identity(), Log()], ids=["clean", "broken"])
def test_model_stays_as_it_was(layer: nn.Module) -> None:
    model = _net(nn.BatchNorm1d(6), nn.Dropout(0.5), layer)
    model[2].eval()
    F.cross_entropy(model(BATCH), LABELS).backward()
    gradients, weights = [p.grad for p in model.parameters()], _state(model)
    modes = [m.training for m in model.modules()]
    values = [gradient.clone() for gradient in gradients]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

    find_nonfinite(model, (BATCH, LABELS), F.cross_entropy)

    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(p.grad.allclose(v, 0, 0, equal_nan=True) for p, v in zip(model.parameters(), values, strict=True))
    assert all(now.allclose(then, 0, 0, equal_nan=True) for now, then in zip(_state(model), weights, strict=True))
    assert [m.training for m in model.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Arguments(nn.Module):
    """Takes a signal and another by name, and gives several outputs in a container."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: Tensor) -> dict[str, Any]:
        return {"whole": [self.layer(x)], "parts": (self.layer(x / scale), None, "text")}


@pytest.mark.parametrize("form", ["tuple", "mapping"])
def test_batches_of_several_arguments(form: str) -> None:
    zero = torch.zeros(5, 1)
    origin = find_nonfinite(Arguments(), (BATCH, zero) if form == "tuple" else {"x": BATCH, "scale": zero})
    assert origin is not None
    assert (origin.layer, origin.operation, origin.reason) == ("", "div", "division by 0")
    assert "in the model itself (Arguments)" in str(origin)


def test_name_of_an_input() -> None:
    bad = torch.full((5, 1), float("nan"))
    origin = find_nonfinite(Arguments(), {"x": BATCH, "scale": bad})
    assert origin is not None
    assert (origin.cause, origin.tensor, origin.operation) == ("input", "[scale]", "div")
    assert str(origin).startswith("the input [scale] itself holds NaN")


def test_target_without_a_loss_is_left_out() -> None:
    assert find_nonfinite(_net(), (BATCH, LABELS)) is None


def test_loss_outside_of_the_model() -> None:
    origin = find_nonfinite(_net(), (BATCH, torch.full((5,), -100)), F.cross_entropy)
    assert origin is not None
    assert (origin.layer, origin.operation, origin.value) == (None, "nll_loss", "NaN")
    assert "no targets at all" in origin.reason
    assert "outside of the model, as in the loss" in str(origin)


def test_weights_in_the_place_of_the_models() -> None:
    model = _net()
    weights = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    weights["1.weight"][0, 0] = float("inf")
    assert find_nonfinite(model, BATCH) is None
    origin = find_nonfinite(model, BATCH, weights=weights)
    assert origin is not None
    assert (origin.cause, origin.tensor, origin.layer, origin.value) == ("weight", "1.weight", "1", "inf")


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layer(reentrant: bool) -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _net(Log())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    origin = find_nonfinite(Checkpointed(), BATCH.clone().requires_grad_())
    assert origin is not None
    assert (origin.layer, origin.operation, origin.direction) == ("inner.1", "log", "forward")


def test_slope_in_a_checkpointed_layer() -> None:
    class Slope(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + (x - x).sqrt()

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _net(Slope())

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.inner, x, use_reentrant=False)

    origin = find_nonfinite(Checkpointed(), BATCH)
    assert origin is not None
    assert (origin.layer, origin.operation, origin.direction) == ("inner.1", "sqrt", "backward")


def test_overflow_that_the_loss_scale_makes() -> None:
    model, batch = _net(), (100 * BATCH, LABELS)
    assert find_nonfinite(model, batch, F.cross_entropy, autocast=torch.float16, scaler=8.0) is None
    origin = find_nonfinite(model, batch, F.cross_entropy, autocast=torch.float16, scaler=2.0**24)
    assert origin is not None
    assert (origin.cause, origin.direction, origin.dtype) == ("scale", "backward", "float16")
    assert "1.67772e+07" in origin.reason


def test_overflow_that_no_loss_scale_makes() -> None:
    model = _net()
    model[0].weight.data *= 1e5
    origin = find_nonfinite(model, (BATCH, LABELS), F.cross_entropy, autocast=torch.float16, scaler=8.0)
    assert origin is not None
    assert (origin.cause, origin.direction, origin.dtype) == ("operation", "forward", "float16")
    assert "float16" in origin.reason


def test_value_that_the_forward_pass_hides() -> None:
    class Hides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 / (1 + torch.exp(1000 * x.square()))

    origin = find_nonfinite(_net(Hides()), BATCH)
    assert origin is not None
    assert origin.hidden
    assert (origin.layer, origin.operation, origin.value) == ("1", "exp", "inf")
    assert "comes back in the gradients" in str(origin)


def test_memory_that_was_never_written() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            memory = torch.empty(x.shape)
            memory.set_(torch.full(x.shape, float("nan")).untyped_storage(), 0, x.shape)
            memory[:, :2] = x[:, :2]
            return memory

    origin = find_nonfinite(_net(Reads()), BATCH)
    assert origin is not None
    assert origin.layer == "1"


def test_calls_of_one_module_are_told_apart() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.log = Log()

        def forward(self, x: Tensor) -> Tensor:
            return self.log(self.log(x.abs() + 1) - 100)

    origin = find_nonfinite(Twice(), BATCH)
    assert origin is not None
    assert (origin.layer, origin.call, origin.reason) == ("log", 2, "the logarithm of a negative number")
    assert "call 2" in str(origin)


def test_line_of_the_code() -> None:
    origin = find_nonfinite(_net(Log()), BATCH)
    assert origin is not None
    file, line = origin.line
    assert file == __file__
    assert "x.log()" in Path(file).read_text().splitlines()[line - 1]


def test_input_that_a_shortcut_takes_as_well() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.layer(x)

    origin = find_nonfinite(Block(), torch.full((2, 6), float("nan")))
    assert origin is not None
    assert (origin.layer, origin.operation, origin.cause) == ("layer", "matmul", "input")


def test_weight_of_length_0_in_weight_norm() -> None:
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))
    layer.parametrizations.weight.original1.data[0] = 0
    origin = find_nonfinite(nn.Sequential(layer), BATCH)
    assert origin is not None
    assert origin.layer == "0.parametrizations.weight.0"
    assert "0/0" in origin.reason


def test_compiled_model_runs_eagerly() -> None:
    with pytest.warns(UserWarning, match="compiled"):
        origin = find_nonfinite(torch.compile(_net(Log())), BATCH)
    assert origin is not None
    assert (origin.layer, origin.operation) == ("1", "log")


def test_gradient_of_a_sparse_embedding() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.mul_(1e-30)
        model[1].weight.mul_(1e30)
    tokens = torch.tensor([1, 2, 3])
    assert find_nonfinite(model, tokens, torch.sum) is None
    origin = find_nonfinite(model, tokens, lambda output: output.sum() * 1e10)
    assert origin is not None
    assert (origin.layer, origin.operation, origin.direction) == ("1", "matmul", "backward")
    assert "overflow of float32" in origin.reason


def test_frozen_weights_and_eval_mode() -> None:
    model = _net(Log()).eval().requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    origin = find_nonfinite(model, BATCH)
    assert origin is not None
    assert origin.operation == "log"
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("model", "batch", "loss", "message"),
    [
        (nn.LazyLinear(2), BATCH, None, "lazy module"),
        (nn.Linear(6, 2), 3, None, "a batch is a tensor"),
        (nn.Linear(6, 2), (), None, "a batch is a tensor"),
        (nn.Linear(6, 2), BATCH, lambda output: output, "one number"),
    ],
)
def test_what_cannot_be_meant_is_refused(model: nn.Module, batch: Any, loss: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_nonfinite(model, batch, loss)
