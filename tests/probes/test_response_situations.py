"""Responses and their gradients with hooks and functions of other users, against plain autograd."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracles.responses import close, norms, std, stds
from torch import Tensor, nn

import gradlab as gl


class Normalized(nn.Module):
    """A convolution, a normalization and an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        nn.init.uniform_(self.norm.weight, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


HOOKS: dict[str, Callable[[Normalized], Any]] = {
    "clone after the layer": lambda m: m.conv.register_forward_hook(lambda *a: a[2].clone()),
    "clone before the norm": lambda m: m.norm.register_forward_pre_hook(lambda _, a: (a[0].clone(),)),
    "prepended clone before the norm": lambda m: m.norm.register_forward_pre_hook(
        lambda _, a: (a[0].clone(),), prepend=True
    ),
    "clone after the norm": lambda m: m.norm.register_forward_hook(lambda *a: a[2].clone()),
    "full backward hook on the layer": lambda m: m.conv.register_full_backward_hook(lambda *_: None),
    "full backward hook on the norm": lambda m: m.norm.register_full_backward_hook(lambda *_: None),
    "twice the response": lambda m: m.norm.register_forward_hook(lambda *a: 2 * a[2]),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("hook", HOOKS)
def test_other_peoples_hooks(hook: str, late: bool) -> None:
    torch.manual_seed(0)
    model, x = Normalized().double().eval(), torch.randn(4, 2, 6, 6).double()
    response = model.norm(model.conv(x)) * (2 if hook == "twice the response" else 1)
    (gradient,) = torch.autograd.grad(torch.relu(response).square().sum(), response)
    for graph in (False, True):
        probes = gl.ResponseStd(model), gl.ResponseGradients(model)
        if not late:
            handle = HOOKS[hook](model)
        with torch.set_grad_enabled(graph), probes[0], probes[1]:
            if late:
                handle = HOOKS[hook](model)
            for _ in range(2):
                loss = model(x).square().sum()
            if graph:
                loss.backward()
        handle.remove()
        assert probes[0].result().frame["std"].tolist() == pytest.approx([std(response)], rel=1e-9)
    assert probes[1].result().frame["response_grad_norm"].tolist() == pytest.approx([gradient.norm().item()], rel=1e-9)


class Functions(nn.Module):
    """Weights that functions apply: a tied head, parameters of the module itself, and experts chosen by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.w = nn.Embedding(7, 4), nn.Parameter(torch.randn(4, 4))
        self.experts, self.pos = nn.Parameter(torch.randn(3, 4, 4)), nn.Parameter(torch.randn(5, 4))

    def forward(self, ids: Tensor) -> Tensor:
        h = self.emb(ids) + self.pos
        state = torch.zeros(len(ids), 4, dtype=h.dtype) @ self.w
        h = torch.tanh(h @ self.w.to(h.dtype).t() + state[:, None])
        chosen = h.sum((1, 2)).abs().argmax() % 3
        h = h + h @ self.experts[chosen]
        return F.linear(h, self.emb.weight)


def test_weights_applied_by_functions() -> None:
    torch.manual_seed(0)
    model, ids = Functions().double(), torch.randint(0, 7, (6, 5))
    first = model.emb(ids)
    zero = torch.zeros(6, 4).double() @ model.w
    second = (first + model.pos) @ model.w.t()
    h = torch.tanh(second + zero[:, None])
    third = h @ model.experts[h.sum((1, 2)).abs().argmax() % 3]
    head = F.linear(h + third, model.emb.weight)
    right = {("emb", 1): first, ("w", 1): zero, ("w", 2): second, ("experts", 1): third, ("emb", 2): head}
    for _ in range(2):
        close(stds(model, ids), {site: std(value) for site, value in right.items()})
    gradients = torch.autograd.grad(head.square().sum(), list(right.values()))
    close(
        norms(model, lambda: model(ids).square().sum()),
        {site: g.norm().item() for site, g in zip(right, gradients, strict=True)},
    )
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(ids)
    coverage = probe.result().coverage
    assert coverage.left_out == {
        "added to the signal or used in another way, not applied to it as a matrix by itself": ["pos"]
    }
    assert coverage.weights_measured == coverage.weights_total - model.pos.numel()


def test_a_mixture_of_weights_is_no_response() -> None:
    class Mixture(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shares, self.w, self.fc = (
                nn.Parameter(torch.randn(3)),
                nn.Parameter(torch.randn(3, 4, 4)),
                nn.Linear(4, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) @ torch.einsum("k,kij->ij", (self.shares / 2).softmax(0), self.w)

    torch.manual_seed(0)
    model, x = Mixture().double(), torch.randn(6, 4).double()
    assert set(stds(model, x)) == {("fc", 1)}


@pytest.mark.parametrize("kind", ["zeros", "expanded vector", "expanded buffer", "repeated row"])
def test_states_that_begin_alike_for_all_examples(kind: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(3, 4))
            begin = torch.randn(1, 4) if kind == "repeated row" else torch.randn(4)
            self.begin = nn.Buffer(begin) if kind == "expanded buffer" else nn.Parameter(begin)

        def states(self, x: Tensor) -> list[Tensor]:
            start = {"zeros": lambda: torch.zeros(6, 4).double(), "repeated row": lambda: self.begin.repeat(6, 1)}
            h, found = start.get(kind, lambda: self.begin.expand(6, 4))(), []
            for t in range(3):
                found.append(h @ self.w)
                h = torch.tanh(x[:, t] @ self.v + found[-1])
            return found

        def forward(self, x: Tensor) -> Tensor:
            return self.states(x)[-1]

    torch.manual_seed(0)
    model, x = Recurrent().double(), torch.randn(6, 3, 3).double()
    found = {site: value for site, value in stds(model, x).items() if site[0] == "w"}
    close(found, {("w", call): std(value) for call, value in enumerate(model.states(x), 1)})


@pytest.mark.parametrize(
    "product",
    [
        torch.linalg.matmul,
        torch.ops.aten.mm.default,
        lambda x, w: torch.linalg.multi_dot([x, w, torch.eye(5).double()]),
        lambda x, w: torch.linalg.vecdot(x[:, None], w.T),
        lambda x, w: torch.sparse.mm(x.to_sparse(), w),
    ],
)
def test_products_by_any_name(product: Callable[[Tensor, Tensor], Tensor]) -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(4, 5))

        def forward(self, x: Tensor) -> Tensor:
            return product(x, self.w)

    torch.manual_seed(0)
    model, x = Product().double(), torch.randn(6, 4).double()
    close(stds(model, x), {("w", 1): std(x @ model.w)})


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("sizes", ["packed", "separate"])
@pytest.mark.parametrize("kind", ["self", "key and value", "all different"])
def test_projections_of_attention(kind: str, sizes: str, batch_first: bool) -> None:
    torch.manual_seed(0)
    options = {"kdim": 4, "vdim": 4, "batch_first": batch_first} if sizes == "packed" else {"kdim": 4, "vdim": 6}
    attention = nn.MultiheadAttention(4, 2, **options).double().eval()  # type: ignore[arg-type]
    q, k = torch.randn(3, 5, 4).double(), torch.randn(3, 5, 4).double()
    v = torch.randn(3, 5, attention.vdim).double()
    q, k, v = {"self": (q, q, q), "key and value": (q, k, k), "all different": (q, k, v)}[kind]
    if sizes == "separate":
        v = torch.randn(3, 5, 6).double()
    bias = attention.in_proj_bias.chunk(3)
    weights = (
        attention.in_proj_weight.chunk(3)
        if sizes == "packed"
        else (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
    )
    right = {
        (name, 1): std(F.linear(x, w, b))
        for name, x, w, b in zip(("query", "key", "value"), (q, k, v), weights, bias, strict=True)
    }
    right["out_proj", 1] = std(attention(q, k, v)[0])
    for _ in range(2):
        close(stds(attention, q, k, v), right)


def test_the_fused_fast_path_hides_nothing() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0).double().eval()
    model, x = nn.TransformerEncoder(layer, 2), torch.randn(3, 5, 8).double()
    found = stds(model, x)
    assert len(found) == 12
    assert found == pytest.approx(stds(model.train(), x), rel=1e-9)


def test_a_block_is_measured_by_its_own_output() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc = nn.LayerNorm(4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.fc(self.norm(x))

    model, x = nn.Sequential(Block(), Block(), nn.LayerNorm(4)).double(), torch.randn(5, 4).double()
    outputs = [model[0](x)]
    outputs.append(model[1](outputs[0]))
    close(stds(model, x, layers=Block), {(str(i), 1): std(o) for i, o in enumerate(outputs)})
    gradients = torch.autograd.grad(model[2](outputs[1]).square().sum(), outputs)
    right = {(str(i), 1): g.norm().item() for i, g in enumerate(gradients)}
    close(norms(model, lambda: model(x).square().sum(), Block), right)


def test_several_outputs_have_rows_of_their_own() -> None:
    model, x = nn.LSTM(4, 3, batch_first=True).double(), torch.randn(2, 5, 4).double()
    out, (h, c) = model(x)
    values = {("", 1): out, ("[1][0]", 1): h, ("[1][1]", 1): c}
    close(stds(model, x), {site: std(value) for site, value in values.items()})
    gradients = torch.autograd.grad(out.square().sum() + c.sum(), list(values.values()), allow_unused=True)
    right = {site: g.norm().item() for site, g in zip(values, gradients, strict=True) if g is not None}
    found = norms(model, lambda: (lambda o, s: o.square().sum() + s[1].sum())(*model(x)))
    close(found, right)


def test_complex_and_integer_outputs() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c, self.table = nn.Linear(4, 4, dtype=torch.complex128), nn.Embedding(9, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(x).abs()

    model, x = Odd(), torch.randn(6, 4, dtype=torch.complex128)
    close(stds(model, x), {("c", 1): std(model.c(x))})
    with torch.no_grad(), gl.ResponseStd(model) as probe:
        model(x)
    assert probe.result().coverage.left_out["not run"] == ["table"]
    assert any("table: did not run" in note for note in probe.result().notes)


def test_a_class_is_chosen_in_a_model_with_parameters_of_its_own() -> None:
    """As in a vision transformer, the root has positions and a class token."""

    class Rooted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(1, 4))
            self.one, self.two = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x + self.positions))

    model, x = Rooted(), torch.randn(5, 4)
    with torch.no_grad(), gl.ResponseStd(model, nn.Linear) as probe:
        model(x)
    assert probe.result().to_frame()["layer"].tolist() == ["one", "two"]


@pytest.mark.parametrize("normalize", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm])
def test_what_normalizes_weights_is_no_normalization_of_responses(normalize: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(normalize(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 3))
    with gl.ResponseStd(model) as probe:
        model(torch.randn(5, 4))
    assert probe.result().notes == []
