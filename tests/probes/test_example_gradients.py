"""ExampleGradients against a loop over single examples in float64, and its statistics against explicit gradients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles.example_gradients import (
    MLP,
    Attention,
    Awkward,
    Checkpointed,
    Shared,
    Tokens,
    by_loop,
    images,
    loss_of,
    trained,
)
from torch import Tensor, nn

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.models import create
from gradlab.stats import (
    gradient_diversity,
    gradient_variance,
    mean_cosine,
    simple_noise_scale,
    true_gradient_square,
)


def probed(model: nn.Module, x: Tensor, layers: object = None, reduction: str = "mean") -> gl.ExampleGradients:
    model.zero_grad()
    with gl.ExampleGradients(model, layers, reduction=reduction) as probe:
        loss_of(model(x), reduction).backward()
        probe.step()
    return probe


def check_norms(model: nn.Module, x: Tensor, reduction: str = "mean", tolerance: float = 1e-9) -> gl.ExampleGradients:
    probe = probed(model, x, reduction=reduction)
    frame = probe.examples()
    expected = by_loop(model, x)
    total = sum((torch.stack(gradients).square().sum(1) for gradients in expected.values()), torch.zeros(len(x)))
    norms = {layer: group["norm"].to_numpy() for layer, group in frame.groupby("layer", sort=False)}
    np.testing.assert_allclose(norms.pop("total"), total.sqrt(), rtol=tolerance)
    for layer, found in norms.items():
        gradients = expected[layer if layer in expected else f"{layer}.weight"]
        np.testing.assert_allclose(found, torch.stack(gradients).norm(dim=1), rtol=tolerance, err_msg=layer)
    return probe


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [1, 4])
def test_a_transposed_convolution_whose_output_is_padded_by_more_than_its_stride(kernel: int, groups: int) -> None:
    layer = nn.ConvTranspose2d(2, 4, kernel, (1, 2), output_padding=(1, 2), dilation=3, groups=groups)
    check_norms(nn.Sequential(layer).double(), images(3, 6, 2).double())


@pytest.mark.parametrize("name", ["resnet20", "resnet8-B", "plain20"])
def test_norms_of_our_networks(name: str) -> None:
    check_norms(trained(create(name)).double(), images().double())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_norms_of_an_mlp(reduction: str) -> None:
    check_norms(MLP.double(), torch.randn(5, 96).double(), reduction)


def test_norms_of_torchvision_resnet18() -> None:
    """It has in-place ReLU and `out += identity`."""
    check_norms(trained(create("torchvision/resnet18")).double(), images().double())


def test_norms_of_sums_that_are_joined_early(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = trained(create("resnet8")).double(), images().double()
    expected = probed(model, x).result().frame
    monkeypatch.setattr("gradlab.probes.examples.batch._WAITING", 10_000)
    found = probed(model, x).result().frame
    for column in ("grad_norm", "variance", "mean_cosine"):
        assert found[column].to_numpy() == pytest.approx(expected[column].to_numpy(), rel=1e-10, nan_ok=True)


def test_norms_in_float32() -> None:
    check_norms(trained(create("resnet20")), images(), tolerance=1e-4)


def test_linear_layers_on_sequences() -> None:
    check_norms(Tokens().double(), torch.randn(5, 96).double())


@pytest.mark.parametrize("make", [Awkward, Shared, Attention])
def test_total_of_awkward_networks(make: type[nn.Module]) -> None:
    model = make().double().eval()
    x = torch.randn(4, 96).double() if make is Attention else images(4, 8).double()
    frame = probed(model, x).examples()
    expected = torch.cat([torch.stack(gradients) for gradients in by_loop(model, x).values()], 1).norm(dim=1)
    np.testing.assert_allclose(frame.loc[frame["layer"] == "total", "norm"], expected, rtol=1e-9)


def test_statistics_of_the_batch() -> None:
    """Statistics equal those of explicit gradients; the norm of the loss's gradient is that of autograd."""
    model, x = trained(create("resnet8")).double(), images(6).double()
    result = probed(model, x).result()
    assert result.notes == []
    rows = {name: torch.stack(gradients) for name, gradients in by_loop(model, x).items()}
    total = result.totals().iloc[0]
    assert total["numel"] == sum(parameter.numel() for parameter in model.parameters())
    for row, g in [
        *((row, rows[f"{row['layer']}.weight"]) for _, row in result.layers().iterrows()),
        (total, torch.cat([*rows.values()], 1)),
    ]:
        n, mean = len(g), g.mean(0)
        variance = np.trace(np.atleast_2d(np.cov(g.T))) if g.shape[1] < 2000 else (g.var(0, correction=1)).sum().item()
        assert row["variance"] == pytest.approx(variance, rel=1e-9)
        assert row["grad_norm"] == pytest.approx(mean.norm().item(), rel=1e-9)
        square = mean.square().sum().item() - variance / n
        assert row["gradient_square"] == pytest.approx(square, rel=1e-6)
        assert row["noise_scale"] == (
            pytest.approx(variance / square, rel=1e-6) if square > 0 else pytest.approx(np.nan, nan_ok=True)
        )
        assert row["diversity"] == pytest.approx((g.square().sum() / g.sum(0).square().sum()).item(), rel=1e-9)
        unit = F.normalize(g, dim=1)
        cosine = ((unit @ unit.T).sum().item() - n) / (n * (n - 1))
        assert row["mean_cosine"] == pytest.approx(cosine, rel=1e-6)
        assert row["examples"] == n
        assert row["example_norm"] == pytest.approx(g.norm(dim=1).mean().item(), rel=1e-9)


def test_the_cosine_over_all_parameters_can_be_left_out() -> None:
    model = trained(create("resnet8")).double()
    with gl.ExampleGradients(model, total_cosine=False) as probe:
        F.cross_entropy(model(images(3).double()), torch.arange(3)).backward()
        probe.step()
    assert math.isnan(probe.result().totals()["mean_cosine"].item())
    assert probe.result().layers()["mean_cosine"].notna().all()


def test_statistics_in_closed_form() -> None:
    orthogonal = torch.ones(4, dtype=torch.float64)
    mean = torch.tensor(0.5, dtype=torch.float64)  # of four orthogonal unit vectors
    assert gradient_variance(orthogonal, mean).item() == pytest.approx(1.0)
    assert true_gradient_square(orthogonal, mean).item() == pytest.approx(0.0)
    assert gradient_diversity(orthogonal, mean).item() == pytest.approx(1.0)
    assert mean_cosine(orthogonal, 4 * mean).item() == pytest.approx(0.0)
    equal = torch.full((5,), 3.0, dtype=torch.float64)
    assert gradient_variance(equal, equal[0]).item() == 0.0
    assert gradient_diversity(equal, equal[0]).item() == pytest.approx(1 / 5)
    assert mean_cosine(equal, torch.tensor(5.0)).item() == pytest.approx(1.0)
    # There are two gradients and one of 0, so the cosine is between the two.
    assert mean_cosine(torch.tensor([1.0, 2.0, 0.0]), torch.tensor(2.0)).item() == pytest.approx(1.0)
    assert mean_cosine(torch.tensor([1.0, 0.0]), torch.tensor(1.0)).isnan()
    assert simple_noise_scale(torch.tensor(6.0), torch.tensor(2.0)).item() == 3.0
    assert simple_noise_scale(torch.tensor(6.0), torch.tensor(-2.0)).isnan()


def test_the_noise_scale_is_unbiased_in_its_parts() -> None:
    """With g = G + noise, the estimates average over many batches of 4 to |G|² = 9 and tr Σ = 50 · 0.25."""
    generator = torch.Generator().manual_seed(0)
    g = 0.5 * torch.randn(20000, 4, 50, generator=generator, dtype=torch.float64)
    g[..., 0] += 3
    norms, mean = g.norm(dim=2), g.mean(1).norm(dim=1)
    assert gradient_variance(norms, mean).mean().item() == pytest.approx(12.5, rel=0.01)
    assert true_gradient_square(norms, mean).mean().item() == pytest.approx(9.0, rel=0.01)


def test_a_choice_of_layers() -> None:
    model, x = trained(create("resnet8")).double(), images().double()
    frame = probed(model, x, "layer2.*").examples()
    assert list(frame["layer"].unique()) == ["layer2.0.conv1", "layer2.0.conv2", "total"]
    rows = by_loop(model, x)
    expected = torch.cat([torch.stack(rows[f"layer2.0.conv{i}.weight"]) for i in (1, 2)], 1).norm(dim=1)
    np.testing.assert_allclose(frame.loc[frame["layer"] == "total", "norm"], expected, rtol=1e-9)


def test_frozen_and_unreached_layers() -> None:
    model = trained(create("resnet8")).double()
    model.layer1.requires_grad_(False)
    model.fc.requires_grad_(False)
    x = images().double()
    probe = probed(model, x)
    frame = probe.result().frame.set_index("layer")
    assert frame["absent"].dropna().to_dict() == {
        "layer1.0.conv1": "frozen",
        "layer1.0.conv2": "frozen",
        "fc": "frozen",
    }
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert frame["numel"]["total"] == trainable
    assert probe.result().notes[0].startswith("layer1.0.conv1, layer1.0.conv2, fc: frozen")


def test_a_frozen_network_has_no_example_gradient() -> None:
    model = create("resnet8").eval().requires_grad_(False)
    with gl.ExampleGradients(model) as probe:
        probe.backward(loss_of(model(images().requires_grad_())))
        probe.step()
    with pytest.raises(GradlabError, match="every parameter is frozen"):
        probe.examples()


def test_several_batches_and_steps() -> None:
    model, parts = trained(create("resnet8")).double(), images(6).double().split(3)
    norms = []
    with gl.ExampleGradients(model, "fc", every=2) as probe:
        for _ in range(3):
            for part in parts:
                (loss_of(model(part)) / 2).backward()
                with torch.no_grad():
                    model(part)
            norms.append(model.fc.weight.grad.norm().item())
            probe.step()
    frame = probe.examples()
    assert frame["step"].unique().tolist() == [0, 2]
    one = frame[(frame["step"] == 2) & (frame["layer"] == "fc")]
    assert one["example"].tolist() == [*range(6)]
    single = [probed(model, part, "fc") for part in parts]
    expected = [norm for p in single for norm in p.examples().query("layer == 'fc'")["norm"]]
    assert one["norm"].tolist() == pytest.approx(expected)
    assert probe.result().layers()["grad_norm"].tolist() == pytest.approx([norms[0], norms[2]])
    assert any("2 batches a step" in note for note in probe.result().notes)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("sizes", [(6,), (3, 3), (2, 2, 2), (1,) * 6, (4, 2)])
def test_examples_do_not_depend_on_how_a_batch_is_split(sizes: tuple[int, ...], reduction: str) -> None:
    """This holds for norms, and for derived statistics unless mean losses are over batches of different sizes."""
    model, x = trained(create("resnet8")).double(), images(6).double()
    whole = probed(model, x, reduction=reduction)
    labels = torch.arange(6)
    model.zero_grad()
    with gl.ExampleGradients(model, reduction=reduction) as probe:
        for part, label in zip(x.split(sizes), labels.split(sizes), strict=True):
            loss = F.cross_entropy(model(part), label, reduction=reduction)
            (loss / len(sizes) if reduction == "mean" else loss).backward()
        probe.step()
    assert probe.examples()["norm"].tolist() == pytest.approx(whole.examples()["norm"].tolist(), rel=1e-9)
    found, expected = probe.result().frame, whole.result().frame
    assert found["example_norm"].tolist() == pytest.approx(expected["example_norm"].tolist(), rel=1e-9)
    if reduction == "mean" and len({*sizes}) > 1:
        assert found["variance"].isna().all()
        return
    for column in ("grad_norm", "variance", "gradient_square", "diversity"):
        assert found[column].tolist() == pytest.approx(expected[column].tolist(), rel=1e-8), column


def test_activation_checkpointing() -> None:
    model = Checkpointed(None).double()
    expected = probed(model, images().double()).examples()
    model.reentrant = False
    assert probed(model, images().double()).examples().equals(expected)
    model.reentrant = True
    with pytest.raises(GradlabError, match=r"block\.0\.weight.*use_reentrant=False"):
        probed(model, images().double())


def test_a_single_example_has_no_variance() -> None:
    result = probed(MLP.double(), torch.randn(1, 96).double()).result()
    assert result.totals()[["variance", "noise_scale"]].isna().all(axis=None)
    assert "a single example has no variance" in result.notes[0]


def test_non_finite_examples_are_named() -> None:
    x = torch.randn(3, 96).double()
    x[1] = math.inf
    result = probed(MLP.double(), x).result()
    assert result.frame["non_finite"].all()
    assert "holds NaN or infinite values" in result.notes[0]


def test_mixed_precision_and_a_scaler() -> None:
    model, x = trained(create("resnet8")), images()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    with gl.ExampleGradients(model, scaler=scaler) as probe:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model(x))
        scaler.scale(loss).backward()
        probe.step()
    found = probe.examples().query("layer == 'total'")["norm"]
    expected = probed(model, x).examples().query("layer == 'total'")["norm"]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=0.1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", [gl.ParameterGradients, gl.ResponseGradients, gl.ExampleGradients])
def test_no_synchronization_on_cuda(kind: type) -> None:
    model, x, labels = trained(create("resnet20")).cuda(), images().cuda(), torch.arange(3).cuda()
    with kind(model) as probe:
        for mode in ("default", "error"):
            torch.cuda.set_sync_debug_mode(mode)
            try:
                F.cross_entropy(model(x), labels).backward()
                probe.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert probe.result().frame["step"].unique().tolist() == [0, 1]
