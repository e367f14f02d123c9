"""ParameterGradients on weights of every kind, and the total of all parameters, against autograd."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError


class Model(nn.Module):
    """A tied head, attention, positions, a weight without a module, and a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.mixing = nn.Parameter(torch.randn(8, 8) / 3)
        self.positions = nn.Parameter(torch.randn(5, 8))
        self.tokens, self.head = nn.Embedding(11, 8), nn.Linear(8, 11, bias=False)
        self.head.weight = self.tokens.weight
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions
        x = x + self.attention(x, x, x)[0]
        return self.head(self.norm(x @ self.mixing)) * self.scale


def passed(model: nn.Module, **options: object) -> gl.GradientsResult:
    tokens = torch.randint(11, (3, 5), generator=torch.Generator().manual_seed(1))
    with gl.ParameterGradients(model, **options) as probe:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        probe.step()
    return probe.result()


def test_every_parameter_in_order_of_execution() -> None:
    torch.manual_seed(0)
    model = Model().double()
    result = passed(model, parameters="all")
    frame = result.frame.set_index("layer")
    weights = ["tokens", "positions", "attention.query", "attention.key", "attention.value", "attention.out_proj"]
    assert [name for name in frame.index if frame.loc[name, "kind"] not in ("bias", "gain")] == [
        *weights,
        "mixing",
        "head",
        "scale",
    ]
    thirds = model.attention.in_proj_weight.grad.chunk(3)
    expected = [model.tokens.weight.grad, model.positions.grad, *thirds, model.attention.out_proj.weight.grad]
    assert frame.loc[weights, "grad_norm"].tolist() == pytest.approx([x.norm().item() for x in expected], rel=1e-12)
    assert frame.loc["head", "grad_norm"] == frame.loc["tokens", "grad_norm"]
    assert result.notes[0].startswith("tokens and head: one parameter")
    clipped = nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
    assert result.totals()["grad_norm"].item() == pytest.approx(clipped, rel=1e-12)
    assert result.totals()["numel"].item() == sum(p.numel() for p in model.parameters())
    assert (result.coverage.share, result.coverage.left_out) == (1, {})


def test_the_default_leaves_out_vectors_and_says_so() -> None:
    result = passed(Model())
    assert (result.coverage.weights_share, result.coverage.layers_measured) == (1, 8)
    assert result.coverage.share < 1
    (reason,) = result.coverage.left_out
    assert 'parameters="all" adds' in reason
    assert result.summary()["coverage"].item() == pytest.approx(100 * result.coverage.share)
    assert "measured 8 of 8 weight layers" in result._repr_html_()


def test_nested_modules_count_once_in_the_total() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)))
    with gl.ParameterGradients(model, ["0", "0.1"]) as probe:
        model(torch.ones(1, 3)).square().sum().backward()
        probe.step()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1e9).item()
    assert probe.result().frame["grad_norm"].max() == pytest.approx(norm, rel=1e-6)
    assert probe.result().totals()["grad_norm"].item() == pytest.approx(norm, rel=1e-6)


def test_complex_integer_and_empty_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4, dtype=torch.cfloat), nn.Linear(4, 0, dtype=torch.cfloat))
    model.register_parameter("codes", nn.Parameter(torch.tensor([[3, -4]], dtype=torch.int8), requires_grad=False))
    with gl.ParameterGradients(model) as probe:
        model[0](torch.ones(2, 3, dtype=torch.cfloat)).abs().square().sum().backward()
        probe.step()
    frame = probe.result().frame.set_index("layer")
    grad = torch.view_as_real(model[0].weight.grad)
    assert frame.loc["0", "grad_norm"] == pytest.approx(grad.norm().item(), rel=1e-6)
    assert frame.loc["0", "weight_norm"] == pytest.approx(model[0].weight.abs().square().sum().sqrt().item(), rel=1e-6)
    assert (frame.loc["codes", "weight_norm"], frame.loc["codes", "absent"]) == (5, "frozen")
    assert frame.loc["1", "numel"] == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
def test_a_scripted_part() -> None:
    model = nn.Sequential(torch.jit.script(nn.Linear(3, 4)), nn.Linear(4, 2))
    with gl.ParameterGradients(model) as probe:
        model(torch.ones(2, 3)).square().sum().backward()
        probe.step()
    frame = probe.result().frame.set_index("layer")
    assert frame["grad_norm"].to_dict() == pytest.approx({str(i): model[i].weight.grad.norm().item() for i in (0, 1)})
    assert frame["kind"].tolist() == ["linear", "linear"]


def test_replaced_parameters_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with gl.ParameterGradients(model) as probe:
        model.load_state_dict(model.state_dict(), assign=True)
        model(torch.ones(1, 3)).sum().backward()
        with pytest.raises(GradlabError, match=r"^0\.weight: replaced by another"):
            probe.step()


def test_another_dtype_of_the_same_parameters() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with gl.ParameterGradients(model) as probe:
        model.double()(torch.ones(1, 3, dtype=torch.float64)).sum().backward()
        probe.step()
    assert probe.result().frame["grad_norm"].item() == pytest.approx(6**0.5)


def test_micro_batches_and_clipping() -> None:
    """The gradient is that at step(): accumulated, and clipped if clipping comes first."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    norms = []
    with gl.ParameterGradients(model) as probe:
        for to_none in (True, False):
            for _ in range(3):
                (model(torch.randn(4, 3)).square().mean() / 3).backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.01 if to_none else 1e9).item())
            probe.step()
            model.zero_grad(set_to_none=to_none)
    assert probe.result().frame["grad_norm"].tolist() == pytest.approx([0.01, norms[1]], rel=1e-3)


@pytest.mark.parametrize("unscaled", [(), (0,), (1,), (0, 1)])
def test_a_scaler_of_two_optimizers(unscaled: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.0) for layer in model]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    x = torch.randn(5, 3)
    with gl.ParameterGradients(model, scaler=scaler) as probe, gl.ParameterGradients(model, scaler=scaler) as second:
        for _ in range(2):
            model.zero_grad()
            scaler.scale(model(x).square().sum()).backward()
            for number in unscaled:
                scaler.unscale_(optimizers[number])
            probe.step(), second.step()
            for optimizer in optimizers:
                scaler.step(optimizer)
            scaler.update()
    assert "unscale_" not in vars(scaler)
    reference = copy.deepcopy(model)
    reference.zero_grad()
    reference(x).square().sum().backward()
    expected = [layer.weight.grad.norm().item() for layer in reference] * 2
    for result in (probe.result(), second.result()):
        assert result.frame["grad_norm"].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_scale_divided_out_before_the_probe_was_there() -> None:
    model, scaler = nn.Linear(2, 2), torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(2)).sum()).backward()
    scaler.unscale_(torch.optim.SGD(model.parameters(), lr=0.0))
    with gl.ParameterGradients(model, scaler=scaler) as probe:
        with pytest.raises(GradlabError, match="called before the probe was attached"):
            probe.step()
        scaler.step(torch.optim.SGD(model.parameters(), lr=0.0))
        scaler.update()
        copied = pickle.loads(pickle.dumps(scaler))
    assert copied.unscale_.scaler is copied


def test_a_step_that_the_scaler_skips() -> None:
    model, scaler = nn.Linear(2, 2), torch.amp.GradScaler("cpu")
    with gl.ParameterGradients(model, scaler=scaler) as probe:
        scaler.scale(model(torch.full((2,), torch.inf)).sum()).backward()
        probe.step()
    assert probe.result().frame["non_finite"].item()
    assert "NaN or infinite" in probe.result().notes[0]
