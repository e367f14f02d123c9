"""Networks of transformers from configuration files."""

import json

import pytest
import torch
import transformers

import gradlab as gl
from gradlab.errors import GradlabError, UsageError

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
CONFIGURATIONS = {
    "gpt2": transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=60, n_positions=16),
    "llama": transformers.LlamaConfig(**SMALL, num_key_value_heads=1, vocab_size=60, max_position_embeddings=64),
    "bert": transformers.BertConfig(**SMALL, vocab_size=60),
    "vit": transformers.ViTConfig(**SMALL, image_size=32, patch_size=8, num_labels=10),
    "t5": transformers.T5Config(
        num_layers=1, d_model=32, d_kv=8, num_heads=2, d_ff=64, vocab_size=60, decoder_start_token_id=0
    ),
}
CLASSES = {
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "bert": "BertForMaskedLM",
    "vit": "ViTForImageClassification",
    "t5": "T5ForConditionalGeneration",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The name of each network: a configuration as the library saves it."""
    names, folder = {}, tmp_path_factory.mktemp("configurations")
    for kind, configuration in CONFIGURATIONS.items():
        configuration.architectures = [CLASSES[kind]]
        configuration.save_pretrained(folder / kind)
        names[kind] = f"transformers/{folder}/{kind}/config.json"
    return names


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_it_is_the_library_s_own(kind, files):
    model = gl.build(f"{files[kind]}@init:3")
    assert type(model) is getattr(transformers, CLASSES[kind])
    assert model.input_shape == {"vit": (3, 32, 32), "gpt2": (16,), "llama": (64,)}.get(kind, (128,))
    assert getattr(model, "vocabulary", None) == (None if kind == "vit" else 60)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        theirs = getattr(transformers, CLASSES[kind])(CONFIGURATIONS[kind])
    assert all(torch.equal(v, theirs.state_dict()[k]) for k, v in model.state_dict().items())
    again = gl.build(f"{files[kind]}@init:3")
    assert again.network.digest == model.network.digest


FEW = {"images": 4, "batch_size": 4}
MEASURES = {
    "responses": lambda name, data: gl.responses(name, data, **FEW),
    "gradients": lambda name, data: gl.gradients(name, data, seeds=1, **FEW),
    "gradients by example": lambda name, data: gl.gradients(name, data, seeds=1, per_example=True, **FEW),
    "input gradients": lambda name, data: gl.input_gradients(name, data, points=6, lags=2, seeds=1, **FEW),
    "signal": lambda name, data: gl.signal(name, data, **FEW),
}


def pairs():
    """The first network in every measurement and every other in two; all other pairs in the thorough tests."""
    return [
        pytest.param(measure, kind, marks=() if i == 0 or (i - j) % 5 in (0, 1) else pytest.mark.thorough)
        for i, kind in enumerate(CONFIGURATIONS)
        for j, measure in enumerate(MEASURES)
    ]


@pytest.mark.parametrize(("measure", "kind"), pairs())
def test_every_measurement_takes_them(kind, measure, files):
    result = MEASURES[measure](f"{files[kind]}@init", "cifar10-sample" if kind == "vit" else "tokens:markov")
    frame = result.to_frame()
    assert len(frame)
    numbers = frame.select_dtypes("number").drop(columns=["theory", "predicted_std"], errors="ignore")
    assert not numbers.dropna(axis=1, how="all").empty


def test_an_encoder_decoder_is_given_its_tokens_twice(files):
    model = gl.build(f"{files['t5']}@init")
    tokens, others = torch.randint(60, (2, 3, 9), generator=torch.Generator().manual_seed(0))
    explicit = model(input_ids=tokens, decoder_input_ids=tokens).logits
    assert torch.equal(model(tokens).logits, explicit)
    assert torch.equal(model(input_ids=tokens).logits, explicit)
    assert not torch.equal(model(tokens, decoder_input_ids=others).logits, explicit)
    assert model(input_ids=tokens, labels=others).loss.isfinite()


def test_gradients_with_respect_to_embeddings_are_those_of_inputs_embeds(files):
    """The library's own way in, by hand."""
    from gradlab.models.embedded import OfEmbeddings

    model = gl.build(f"{files['gpt2']}@init").double()
    tokens = torch.randint(60, (3, 16), generator=torch.Generator().manual_seed(0))
    network = OfEmbeddings(model)
    embeddings = network.embed(tokens)
    assert torch.equal(embeddings, model.transformer.wte(tokens))
    found = []
    with torch.no_grad(), gl.InputGradients(network, observe=found.append):
        output = network(embeddings)
    assert not output.logits.requires_grad
    given = embeddings.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(inputs_embeds=given).logits.sum(), given)
    torch.testing.assert_close(found[0], expected)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_cannot_be_built_is_said(tmp_path):
    def name(content):
        path = tmp_path / "config.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return f"transformers/{path}@init"

    with pytest.raises(UsageError, match=r"is not a file: give transformers/ and the path of a config\.json"):
        gl.build(f"transformers/{tmp_path}/none.json@init")
    with pytest.raises(GradlabError, match="cannot be read as JSON"):
        gl.build(name("{"))
    with pytest.raises(GradlabError, match="holds no configuration"):
        gl.build(name([1]))
    with pytest.raises(GradlabError, match="no networks of model_type 'gpt17'"):
        gl.build(name({"model_type": "gpt17"}))
    with pytest.raises(GradlabError, match="transformers cannot build it"):
        gl.build(name({"model_type": "bert", "hidden_size": 30, "num_attention_heads": 7}))
    with pytest.raises(UsageError, match=r"has no bundled trained weights: give .*@init, .*@PATH of a checkpoint$"):
        gl.build(name({"model_type": "bert"}).removesuffix("@init"))
    bare = gl.build(name({"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 9}))
    assert type(bare).__name__ == "GPT2Model"
