"""The rows of models with modules of any class, and selections among them."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.models import create
from gradlab.probes.coverage import PACKED, coverage_of, depth_of
from gradlab.probes.selection import depth_layers, paper_layers, select_layers, select_rows
from gradlab.probes.weights import weight_rows


class Odd(nn.Module):
    """Parameters that no layer of torch owns."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.positions = nn.Parameter(torch.zeros(1, 5, 4))
        self.experts = nn.ParameterList([nn.Parameter(torch.ones(2, 4, 4))])
        self.attention = nn.MultiheadAttention(4, 2, kdim=3, vdim=2, add_bias_kv=True)
        self.recurrent = nn.GRU(4, 3, bidirectional=True)
        self.tokens, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.tokens.weight
        self.norm = nn.LayerNorm(4)


def test_every_parameter_has_one_row() -> None:
    model = Odd()
    kinds = {name: row.kind for name, row in weight_rows(model).items()}
    assert kinds == {
        "positions": "parameter",
        "experts.0": "parameter",
        "attention.query": "linear",
        "attention.key": "linear",
        "attention.value": "linear",
        "attention.bias_k": "parameter",
        "attention.bias_v": "parameter",
        "attention.out_proj": "linear",
        "recurrent.weight_ih_l0": "gru",
        "recurrent.weight_hh_l0": "gru",
        "recurrent.weight_ih_l0_reverse": "gru",
        "recurrent.weight_hh_l0_reverse": "gru",
        "tokens": "embedding",
        "head": "linear",
    }
    rows = weight_rows(model, "all")
    assert {rows[name].kind for name in ("attention.in_proj_bias", "recurrent.bias_ih_l0", "norm.bias")} == {"bias"}
    assert (rows["temperature"].kind, rows["norm.weight"].kind) == ("parameter", "gain")
    parameters = {part.parameter for row in rows.values() for part in row.parts}
    assert parameters == {*model.parameters()}
    numel = sum(parameter.numel() for parameter in model.parameters())
    assert str(coverage_of(model, rows.values())) == f"measured 14 of 14 weight layers, 100 % of {numel} parameters"


def test_attention_has_a_row_per_projection() -> None:
    attention = nn.MultiheadAttention(6, 2)
    rows = weight_rows(nn.Sequential(attention))
    values = torch.arange(18.0)[:, None].expand(18, 6)
    assert [rows[f"0.{name}"].parts[0].of(values)[0, 0].item() for name in ("query", "key", "value")] == [0, 6, 12]
    assert [rows[f"0.{name}"].numel for name in ("query", "key", "value", "out_proj")] == [36] * 4
    assert depth_of(nn.Sequential(attention)) == 2


@pytest.mark.parametrize(
    ("wrap", "parts"),
    [
        (lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5), ["0.weight_orig"]),
        (weight_norm, ["0.weight_g", "0.weight_v"]),
        (spectral_norm, ["0.weight_orig"]),
        (
            parametrizations.weight_norm,
            ["0.parametrizations.weight.original0", "0.parametrizations.weight.original1"],
        ),
        (parametrizations.spectral_norm, ["0.parametrizations.weight.original"]),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_a_computed_weight_has_the_parameters_it_is_computed_from(wrap: object, parts: list[str]) -> None:
    model = nn.Sequential(nn.Conv1d(3, 4, 3))
    wrap(model[0])
    (row,) = weight_rows(model).values()
    assert (row.name, row.kind, [part.name for part in row.parts]) == ("0", "conv3", parts)
    assert "0.bias" in weight_rows(model, "all")
    assert [*select_layers(model)] == ["0"]


def test_pruning_a_recurrent_layer_and_attention() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4, bidirectional=True), "attention": nn.MultiheadAttention(4, 2)})
    prune.l1_unstructured(model["lstm"], "weight_ih_l0", amount=0.5)
    prune.l1_unstructured(model["attention"], "in_proj_weight", amount=0.5)
    rows = weight_rows(model)
    assert rows["lstm.weight_ih_l0"].parts[0].name == "lstm.weight_ih_l0_orig"
    assert rows["lstm.weight_ih_l0_reverse"].parts[0].name == "lstm.weight_ih_l0_reverse"
    assert rows["attention.key"].parts[0].name == "attention.in_proj_weight_orig"


def test_a_parameter_without_a_shape_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.weight has no shape before the model has run"):
        weight_rows(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(UsageError, match="parameters is weights or all, not 'biases'"):
        weight_rows(nn.Linear(2, 2), "biases")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.inner(self.norm(x)))


def test_selections_of_rows() -> None:
    model = nn.Sequential(Block(), Block(), nn.Linear(4, 2))
    assert [*select_rows(model, ["2", "0.inner"])] == ["0.inner", "2"]
    assert [*select_rows(model, "*.inner, 2.bias")] == ["0.inner", "1.inner", "2.bias"]
    assert [*select_rows(model, lambda name, _: name.endswith("outer"))] == ["0.outer", "1.outer"]
    assert [*select_rows(model, nn.LayerNorm)] == ["0.norm", "1.norm"]
    whole = select_rows(model, Block)
    assert {name: len(row.parts) for name, row in whole.items()} == {"0": 6, "1": 6}
    assert [*select_rows(model, "2", "all")] == ["2", "2.bias"]
    assert [*select_layers(model, ["1", "0.inner"])] == ["0.inner", "1"]
    assert [*select_layers(model, (nn.LayerNorm, Block))] == ["0", "0.norm", "1", "1.norm"]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["2", "three"], "no layer of Sequential matches 'three'; it has 0.inner, 0.outer, 1.inner, 1.outer, 2"),
        ("x*", "matches 'x\\*'; it has 0.inner"),
        (nn.LSTM, "matches the class LSTM"),
        (3, "layers takes names, globs, classes or a predicate of name and module, not 3"),
    ],
)
def test_a_selection_that_matches_nothing_is_named(layers: object, message: str) -> None:
    model = nn.Sequential(Block(), Block(), nn.Linear(4, 2))
    for select in (select_layers, select_rows):
        with pytest.raises(UsageError, match=message):
            select(model, layers)


def test_what_the_papers_count() -> None:
    resnet = create("resnet20-B")
    convolutions = [name for name, module in resnet.named_modules() if isinstance(module, nn.Conv2d)]
    assert paper_layers(resnet) == [name for name in convolutions if "shortcut" not in name]
    assert len(depth_layers(resnet)) == depth_of(resnet) == 20
    mixed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Embedding(3, 4))
    assert paper_layers(mixed) is None
    assert depth_layers(mixed) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layers", [None, ["0", "1"]])
def test_packed_weights_are_named_unless_they_are_measured(layers: list[str] | None) -> None:
    parts = nn.Sequential(nn.Conv1d(3, 4, 2), nn.Linear(4, 5), nn.Tanh(), nn.LSTM(5, 6)).eval()
    model = torch.ao.quantization.quantize_dynamic(parts, {nn.Linear, nn.LSTM}, dtype=torch.qint8)
    with gl.ResponseStd(model, layers=layers) as probe:
        model(torch.randn(2, 3, 5))
    left_out = probe.result().coverage.left_out
    assert left_out[PACKED] == (["1", "3"] if layers is None else ["3"])
