"""ResponseGradients against float64 brute force on nets rewritten without in-place operations."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlab as gl
from gradlab.errors import GradlabError, UsageError
from gradlab.models import create
from gradlab.probes import find_blocks


def batch(n: int = 4, size: int = 32, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 3, size, size, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def randomized(model: nn.Module) -> nn.Module:
    """Set normalizations far from the identity, so that responses before and after them differ."""
    generator = torch.Generator().manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            with torch.no_grad():
                module.weight.copy_(torch.rand(module.weight.shape, generator=generator) + 0.5)
                module.bias.copy_(torch.rand(module.bias.shape, generator=generator) - 0.5)
    return model.eval()


def brute_force(model: nn.Module, where: dict[str, str], images: Tensor, labels: Tensor) -> dict[str, float]:
    """L2 norm of the loss's gradient with respect to the outputs of named modules, by `autograd.grad` in float64.

    A hook puts a copy in the output's place, so that whatever follows in place works on the copy.
    """
    exact = copy.deepcopy(model).double()
    kept: dict[str, Tensor] = {}

    def keep(layer: str) -> Callable[[nn.Module, object, Tensor], Tensor]:
        def hook(module: nn.Module, args: object, output: Tensor) -> Tensor:
            kept[layer] = output
            return output.clone()

        return hook

    for layer, name in where.items():
        exact.get_submodule(name).register_forward_hook(keep(layer))
    loss = F.cross_entropy(exact(images.double()), labels)
    gradients = torch.autograd.grad(loss, [kept[layer] for layer in where])
    return {layer: float(np.linalg.norm(g.numpy())) for layer, g in zip(where, gradients, strict=True)}


class InPlace(nn.Module):
    """In-place ReLU and `out +=` on the response itself; one convolution without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        out = self.norm(self.conv(x))
        out += x
        out *= 2
        return self.head(self.act(out).mean((2, 3)))


def own_pairs(model: nn.Module) -> dict[str, str]:
    convolutions = [
        n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and "shortcut" not in n and "downs" not in n
    ]
    return {**{layer: layer.replace("conv", "bn") for layer in convolutions}, "fc": "fc"}


CASES = {
    "resnet20": own_pairs,
    "resnet20-B": own_pairs,
    "plain20": own_pairs,
    "torchvision/resnet18": own_pairs,
    "in-place": lambda model: {"stem": "stem", "conv": "norm", "head": "head"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_responses_and_block_outputs(case: str, dtype: torch.dtype) -> None:
    model = randomized(InPlace() if case == "in-place" else create(case)).to(dtype)
    images, labels = batch()
    with gl.ResponseGradients(model, [*CASES[case](model)]) as probe:
        F.cross_entropy(model(images.to(dtype)), labels).backward()
        probe.step()
    result = probe.result()
    for frame, where in (
        (result.layers(), CASES[case](model)),
        (result.blocks(), {name: name for name in find_blocks(model)}),
    ):
        expected = brute_force(model, where, images, labels) if where else {}
        assert frame["layer"].tolist() == list(expected)
        assert frame["index"].tolist() == [*range(1, len(expected) + 1)]
        tolerance = 1e-9 if dtype == torch.float64 else 1e-3
        assert frame["response_grad_norm"].tolist() == pytest.approx([*expected.values()], rel=tolerance)
        rms = frame["response_grad_norm"] / frame["response_numel"].astype(float) ** 0.5
        assert frame["response_grad_rms"].tolist() == pytest.approx(rms.tolist(), rel=1e-12)
    if case == "resnet20":
        assert result.layers()["response_numel"].tolist()[:2] == [4 * 16 * 32 * 32] * 2


def test_real_checkpoint(checkpoint: Callable[[str], Path]) -> None:
    model = gl.build(f"resnet56@{checkpoint('resnet56-4bfd9763.th')}").eval()
    ((images, labels),) = gl.batches("cifar10-sample", 16, model, images=16)
    with gl.ResponseGradients(model) as probe:
        F.cross_entropy(model(images), labels).backward()
    expected = brute_force(model, own_pairs(model), images, labels)
    frame = probe.result().layers().set_index("layer")
    assert frame["response_grad_norm"].to_dict() == pytest.approx(expected, rel=5e-3)


def test_blocks_of_networks() -> None:
    assert len(find_blocks(create("resnet20"))) == 9
    assert list(find_blocks(create("torchvision/resnet50")))[-1] == "layer4.2"
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
    assert list(find_blocks(encoder)) == ["layers.0", "layers.1", "layers.2"]
    assert not find_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)))
    model = create("resnet8")
    with gl.ResponseGradients(model, blocks="layer2.0,layer3.0") as probe:
        model(batch()[0]).sum().backward()
    assert probe.result().blocks()["layer"].tolist() == ["layer2.0", "layer3.0"]


class Repeated(nn.Module):
    """One module called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.conv(x)) * 2
        return x


def test_a_module_called_three_times_is_three_sites() -> None:
    model = Repeated().double()
    images = batch()[0].double()
    with gl.ResponseGradients(model) as probe:
        model(images).square().sum().backward()
        probe.step()
    frame = probe.result().frame
    x, responses = images, []
    for _ in range(3):
        responses.append(model.conv(x))
        x = torch.tanh(responses[-1]) * 2
    expected = [g.norm().item() for g in torch.autograd.grad(x.square().sum(), responses)]
    assert frame["call"].tolist() == [1, 2, 3]
    assert frame["response_grad_norm"].tolist() == pytest.approx(expected, rel=1e-12)


class Checkpointed(nn.Module):
    """A block whose activations are recomputed in the backward pass."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.block(x) if self.reentrant is None else checkpoint(self.block, x, use_reentrant=self.reentrant)


def test_recomputation_is_not_counted_twice() -> None:
    found = {}
    model = randomized(Checkpointed(None))
    for reentrant in (None, False, True):
        model.reentrant = reentrant
        with gl.ResponseGradients(model, "stem" if reentrant else None) as probe, gl.ResponseGradients(model) as every:
            for seed in (1, 2):
                model(batch(seed=seed)[0]).square().sum().backward()
        found[reentrant] = probe.result().frame
    assert found[False].equals(found[None])
    assert found[True]["response_grad_norm"].tolist() == found[None]["response_grad_norm"].tolist()[:1]
    with pytest.raises(GradlabError, match=r"block\.0: reentrant activation checkpointing .* use_reentrant=False"):
        every.result()


def test_backward_passes_of_one_step_are_taken_together() -> None:
    """Sums of squares of micro-batches add; a forward pass without a graph in between does not count."""
    model = randomized(create("resnet8"))
    halves = [batch(seed=1), batch(seed=2)]
    with gl.ResponseGradients(model, every=2) as probe:
        for _ in range(3):
            for images, labels in halves:
                F.cross_entropy(model(images), labels).backward()
                with torch.no_grad():
                    model(images)
            probe.step()
    frame = probe.result().layers()
    assert frame["step"].unique().tolist() == [0, 2]
    parts = [brute_force(model, own_pairs(model), images, labels) for images, labels in halves]
    for step in (0, 2):
        row = frame[(frame["step"] == step)].set_index("layer")
        for layer, expected in parts[0].items():
            assert row["response_grad_norm"][layer] == pytest.approx(np.hypot(expected, parts[1][layer]), rel=1e-4)
        assert row["response_numel"]["conv1"] == 2 * 4 * 16 * 32 * 32


def test_what_is_absent_or_not_finite_is_named() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.side, self.head, self.idle = (nn.Linear(4, 4) for _ in range(4))
            self.stem.requires_grad_(False)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.stem(x)
            return self.head(x), self.side(x)

    model = Branches()
    with gl.ResponseGradients(model) as probe:
        (model(torch.randn(3, 4))[0] * float("inf")).sum().backward()
        probe.step()
    result = probe.result()
    found = result.frame.set_index("layer")
    assert found["absent"].dropna().to_dict() == {"stem": "no graph", "side": "not reached", "idle": "not run"}
    assert found["non_finite"].to_dict() == {"stem": False, "side": False, "head": True, "idle": False}
    assert [note.partition(":")[0] for note in result.notes] == ["side", "stem", "idle", "head"]
    assert "frozen with nothing trained before it" in result.notes[1]


def test_nothing_to_measure_is_an_error() -> None:
    with pytest.raises(UsageError, match="has no parameters"):
        gl.ResponseGradients(nn.Identity())
    model = create("resnet8").requires_grad_(False)
    with gl.ResponseGradients(model) as probe:
        model(batch()[0])
        probe.step()
    with pytest.raises(GradlabError, match="saw no gradient of a response"):
        probe.result()


def test_a_scaler_is_divided_out() -> None:
    model = randomized(create("resnet8"))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    images, labels = batch()
    with gl.ResponseGradients(model, scaler=scaler) as probe:
        scaler.scale(F.cross_entropy(model(images), labels)).backward()
        scaler.unscale_(optimizer)
        probe.step()
    expected = brute_force(model, own_pairs(model), images, labels)
    frame = probe.result().layers().set_index("layer")
    assert frame["response_grad_norm"].to_dict() == pytest.approx(expected, rel=1e-4)


def test_gradients_after_the_probe_has_left_are_not_taken() -> None:
    model = create("resnet8")
    with gl.ResponseGradients(model) as probe:
        model(batch(seed=1)[0]).sum().backward()
        late = model(batch(seed=2)[0]).sum()
    before = probe.result().frame
    late.backward()
    assert probe.result().frame.equals(before)
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_probes_of_one_step_join_into_the_columns_of_the_contract() -> None:
    model = create("resnet8")
    with gl.ParameterGradients(model) as parameters, gl.ResponseGradients(model) as responses:
        for seed in range(2):
            model.zero_grad()
            model(batch(seed=seed)[0]).sum().backward()
            parameters.step()
            responses.step()
    joined = gl.GradientsResult.join([parameters.result("net"), responses.result("net")])
    columns = ["network", "seed", "layer", "index", "kind", "numel", "weight_norm", "grad_norm", "grad_rms"]
    columns += ["relative", "response_grad_rms"]
    assert list(joined.frame)[: len(columns)] == columns
    layers = joined.layers("net")
    assert len(layers) == 2 * 8
    assert layers["grad_norm"].tolist() == parameters.result("net").frame["grad_norm"].tolist()
    assert layers["response_grad_rms"].tolist() == responses.result("net").layers()["response_grad_rms"].tolist()
    assert layers["index"].tolist() == 2 * [*range(1, 9)]
    assert len(joined.blocks()) == 2 * 3
    with pytest.raises(GradlabError, match="no gradients of other: measured were net"):
        joined.layers("other")
