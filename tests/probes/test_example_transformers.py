"""Gradients of single examples of transformers against a loop over the examples, in float64."""

import pytest
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

import gradlab as gl
from gradlab.models import create

TOKENS = "-width=24-heads=3-vocab=13-context=9"
OURS = [
    *(f"gpt2{TOKENS}{words}" for words in (
        "", "-norm=post", "-norm=sandwich-act=relu", "-rms", "-scale=deepnorm", "-scale=sqrt", "-scale=completep",
        "-scale=fixup", "-scale=skipinit", "-scale=rezero", "-shortcut=none", "-untied", "-init=gpt2",
    )),
    *(f"vit2-width=24-heads=3-patch=16{words}" for words in ("", "-norm=post", "-rms-scale=sqrt")),
]  # fmt: skip
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}


def of_the_library(kind: str) -> nn.Module:
    torch.manual_seed(0)
    models = {
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(n_layer=2, n_embd=24, n_head=3, vocab_size=13, n_positions=9)
        ),
        "bert": lambda: transformers.BertForMaskedLM(transformers.BertConfig(**SMALL, vocab_size=13)),
        "llama": lambda: transformers.LlamaForCausalLM(
            transformers.LlamaConfig(**SMALL, num_key_value_heads=1, vocab_size=13)
        ),
        "vit": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(**SMALL, image_size=32, patch_size=16)
        ),
    }
    return models[kind]().double().eval()


def batch_of(images: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    if images:
        x = torch.randn(4, 3, 32, 32, generator=generator, dtype=torch.float64)
        return x, torch.randint(2, (4,), generator=generator)
    tokens = torch.randint(13, (4, 10), generator=generator)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def losses(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    output = model(x)
    logits = getattr(output, "logits", output)
    each = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def hold(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    """Every parameter's norm for every example, and the total, to 1e-6 of the total."""
    with gl.ExampleGradients(model) as probe:
        probe.backward(losses(model, x, labels).mean())
        probe.step()
    frame = probe.examples()
    rows = probe.layers
    expected: dict[str, list[float]] = {"total": []}
    for i in range(len(x)):
        model.zero_grad()
        losses(model, x[i : i + 1], labels[i : i + 1]).sum().backward()
        every = [p.grad.norm() for p in model.parameters() if p.grad is not None]
        expected["total"].append(float(torch.stack(every).norm()))
        for name, row in rows.items():
            parts = [part.parameter.grad for part in row.parts]
            norms = [grad.norm() for grad in parts if grad is not None]
            expected.setdefault(name, []).append(float(torch.stack(norms).norm()) if norms else 0.0)
    found = {layer: group["norm"].to_list() for layer, group in frame.groupby("layer", sort=False)}
    assert set(found) == set(expected)
    scale = max(expected["total"])
    for layer, norms in found.items():
        assert norms == pytest.approx(expected[layer], rel=1e-6, abs=1e-9 * scale), layer


def moved(model: nn.Module) -> nn.Module:
    """The network with its zeros and ones a little away from where they hide a mistake."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype), alpha=0.05)
    return model


@pytest.mark.parametrize("name", OURS)
def test_our_transformers(name: str) -> None:
    hold(moved(create(name).double().eval()), *batch_of("vit" in name))


@pytest.mark.parametrize("kind", ["gpt2", "bert", "llama", "vit"])
def test_transformers_of_the_library(kind: str) -> None:
    hold(of_the_library(kind), *batch_of(kind == "vit"))


def test_fixup_as_initialized_has_gradients_in_its_last_layers_alone() -> None:
    """Where the last layers are 0 nothing comes back to those before them, and the probe says 0 and not a small one."""
    model = create(f"gpt2{TOKENS}-scale=fixup").double().eval()
    hold(model, *batch_of(images=False))
    assert not model.blocks[0].mlp.fc1.weight.grad.any()
    assert model.blocks[0].mlp.fc2.weight.grad.any()
