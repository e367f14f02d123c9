"""Where the examples lie in a backward pass, and whether they depend on each other."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.example_gradients import MLP, by_loop, images, loss_of
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create


def probed(model: nn.Module, x: Tensor, scale: float = 1.0) -> gl.ExampleGradients:
    with gl.ExampleGradients(model) as probe:
        (loss_of(model(x).float() if x.dtype.itemsize < 4 else model(x)) * scale).backward()
        probe.step()
    return probe


def test_batch_statistics_are_refused() -> None:
    model = create("resnet8").train()
    with pytest.raises(GradlabError, match=r"bn1 normalizes with the statistics of the batch.*model.eval\(\)"):
        probed(model, images())
    with gl.batch_statistics(model.eval()), pytest.raises(GradlabError, match="couple the examples"):
        probed(model, images())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
    assert all(not parameter._post_accumulate_grad_hooks for parameter in model.parameters())


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_gradients_divided_by_the_counts_of_a_batch_are_refused(kind: type[nn.Module]) -> None:
    class Looked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = kind(7, 4, scale_grad_by_freq=True), nn.Linear(4, 3)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.embed(ids).reshape(len(ids), -1, 4).mean(1))

    ids = torch.tensor([[0, 1], [1, 2], [1, 1]])
    model = Looked()
    with pytest.raises(GradlabError, match="scale_grad_by_freq"), gl.ExampleGradients(model):
        model(ids)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="reduction is mean or sum"):
        gl.ExampleGradients(MLP, reduction="none")
    with pytest.raises(GradlabError, match="no example's gradient"):
        gl.ExampleGradients(MLP).result()
    model = nn.Sequential(nn.Linear(3, 2))
    with gl.ExampleGradients(model):
        loss = loss_of(model(torch.randn(4, 3)))
        loss.backward(retain_graph=True)
        with pytest.raises(GradlabError, match="two backward passes through one forward pass"):
            loss.backward()
    attention = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0)
    with pytest.raises(GradlabError, match="what it gives one example depends on others"):
        probed(attention, torch.randn(3, 3, 12))


class Folded(nn.Module):
    """Two rows per example, in the order of the examples, of the rows, or shuffled."""

    def __init__(self, order: str) -> None:
        super().__init__()
        self.layer, self.order = nn.Linear(3, 2), order

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, 3)
        order = torch.arange(len(rows))
        if self.order == "rows":
            order = order.view(-1, 2).mT.flatten()
        elif self.order == "shuffled":
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
        found = torch.empty(len(rows), 2, dtype=x.dtype).index_put((order,), self.layer(rows[order]))
        return torch.tanh(found).reshape(len(x), -1)


@pytest.mark.parametrize("order", ["examples", "rows", "shuffled"])
def test_rows_that_are_not_the_examples(order: str) -> None:
    model, x = Folded(order).double(), torch.randn(4, 6).double()
    probe = probed(model, x)
    expected = torch.cat([torch.stack(rows) for rows in by_loop(model, x).values()], 1).norm(dim=1)
    np.testing.assert_allclose(probe.examples().query("layer == 'total'")["norm"], expected, rtol=1e-9)
    slow = any("a backward pass for each example" in note for note in probe.result().notes)
    assert slow == (order == "shuffled")


class Coupled(nn.Module):
    """Examples that depend on each other by the mean or the scale of the batch, by attention, or not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.two, self.how = nn.Linear(6, 8), nn.Linear(8, 3), how

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        if self.how == "mean":
            h = h - h.mean(0)
        elif self.how == "scale":
            h = h / (h.std(0) + 1e-3)
        elif self.how == "attention":
            h = torch.softmax(h @ h.T, 1) @ h
        return self.two(torch.tanh(h))


@pytest.mark.parametrize("scale", [1e-38, 1e-3, 1.0, 1e3, 1e38])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_examples_that_depend_on_each_other(dtype: torch.dtype, scale: float) -> None:
    """At any scale of the loss that the dtype represents."""
    if dtype is torch.float16 and not 1e-4 < scale < 1e4:
        pytest.skip("float16 has no such gradients")
    torch.manual_seed(0)
    x = torch.randn(6, 6).to(dtype)
    probed(Coupled("").to(dtype), x, scale)
    for how in ("mean", "scale", "attention"):
        with pytest.raises(GradlabError, match="what it gives one example depends on others"):
            probed(Coupled(how).to(dtype), x, scale)


@pytest.mark.parametrize("scale", [1e-38, 1e38])
def test_small_inputs_and_a_large_loss(scale: float) -> None:
    """The gradients at the output are at the end of float32's range, those of the weight inside or far below."""
    model, x = nn.Sequential(nn.Linear(12, 1, bias=False)), torch.full((4, 12), 1e-30)
    with gl.ExampleGradients(model, reduction="sum") as probe:
        (model(x).sum() * scale).backward()
        probe.step()
    expected = x.double().norm(dim=1) * scale
    np.testing.assert_allclose(probe.examples().query("layer == 'total'")["norm"], expected, rtol=1e-6)


def test_a_loss_whose_examples_differ_in_scale() -> None:
    model, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(4, 5)
    weights = torch.tensor([1e-36, 1e-20, 1.0, 1e36])
    with gl.ExampleGradients(model, reduction="sum") as probe:
        (F.cross_entropy(model(x), torch.zeros(4, dtype=torch.int64), reduction="none") * weights).sum().backward()
        probe.step()
    for i, found in enumerate(probe.examples().query("layer == 'total'")["norm"]):
        wide = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        wide.load_state_dict(model.state_dict())
        loss = F.cross_entropy(wide(x[i : i + 1].double()), torch.zeros(1, dtype=torch.int64)) * weights[i].double()
        exact = torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*wide.parameters()])]).norm()
        assert found == pytest.approx(exact.item(), rel=1e-5)


def test_float32_behind_layers_that_run_in_float16() -> None:
    """Autocast runs normalizations in float32, on gradients that have lost digits in float16 before."""
    torch.manual_seed(0)
    model = gl.build("gpt2-width=32-heads=2@init")
    x, y = torch.randint(256, (2, 4, 16))
    norms = []
    for precision in (torch.float32, torch.float16):
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, enabled=precision is torch.float16)
        with gl.ExampleGradients(model, scaler=scaler) as probe:
            with torch.autocast("cpu", precision, enabled=precision is torch.float16):
                loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            scaler.scale(loss).backward()
            probe.step()
        model.zero_grad()
        norms.append(probe.examples()["norm"].to_numpy())
    np.testing.assert_allclose(norms[1], norms[0], rtol=0.01)


def test_a_model_that_is_converted_between_steps() -> None:
    """Its parameters have new nodes in the graph, at which gradients arrive from then on."""
    model = create("resnet8").eval()
    with gl.ExampleGradients(model) as probe:
        for dtype in (torch.float32, torch.float64, torch.float32):
            model.to(dtype).zero_grad()
            loss_of(model(images().to(dtype))).backward()
            probe.step()
    norms = probe.examples().pivot(index=["layer", "example"], columns="step", values="norm")
    np.testing.assert_allclose(norms[1], norms[0], rtol=1e-4)
    np.testing.assert_allclose(norms[2], norms[0], rtol=1e-4)
