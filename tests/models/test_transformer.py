"""Our transformers against the libraries' own, the papers' counts, and the equations written down."""

import math

import pytest
import timm
import torch
import transformers

import gradlab as gl
from gradlab.errors import UsageError
from gradlab.models import create, named_cost, parse_name


def counts_of_gpt2(layers: int, width: int, heads: int) -> int:
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=layers, n_embd=width, n_head=heads))
    return sum(p.numel() for p in model.parameters())


def counts_of_timm(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name, num_classes=1000).parameters())


@pytest.mark.parametrize(
    ("depth", "width", "heads", "millions"),
    [(12, 768, 12, 124), (24, 1024, 16, 355), (36, 1280, 20, 774), (48, 1600, 25, 1558)],
)
def test_gpt2_has_the_parameters_of_its_sizes(depth, width, heads, millions):
    """GPT-2's four sizes, as its repository and the library count them."""
    found = named_cost(parse_name(f"webtext/gpt{depth}")).parameters
    assert found == counts_of_gpt2(depth, width, heads)
    assert round(found / 1e6) == millions


@pytest.mark.parametrize(
    ("name", "theirs", "millions"),
    [
        ("imagenet/vit12-width=192", "vit_tiny_patch16_224", 5.7),
        ("imagenet/vit12-width=384", "vit_small_patch16_224", 22.1),
        ("imagenet/vit12", "vit_base_patch16_224", 86.6),
        ("imagenet/vit24", "vit_large_patch16_224", 304.3),
        ("imagenet/vit32-heads=16-patch=14", "vit_huge_patch14_224", 632.0),
    ],
)
def test_vit_has_the_parameters_of_its_sizes(name, theirs, millions):
    found = named_cost(parse_name(name)).parameters
    assert found == counts_of_timm(theirs)
    assert round(found / 1e6, 1) == millions


def test_multiply_adds_are_those_of_the_products():
    """12 d² for the linear layers of a block and 2·T·d for its attention, for each of T tokens, and the head."""
    layers, tokens, width, vocabulary = 3, 32, 64, 100
    name = f"gpt{layers}-width={width}-context={tokens}-vocab={vocabulary}"
    expected = tokens * (layers * (12 * width**2 + 2 * tokens * width) + width * vocabulary)
    assert named_cost(parse_name(name)).multiply_adds == expected


def test_cost_of_vit_is_that_of_timm():
    from gradlab.models import cost

    theirs = timm.create_model("vit_tiny_patch16_224", depth=2)
    ours = named_cost(parse_name("imagenet/vit2-width=192"))
    # Theirs includes the products inside attention, as counted by torch.
    assert ours.multiply_adds == cost(theirs, (3, 224, 224)).multiply_adds


def test_gpt_is_gpt2():
    """The library's model with the values of ours; its Conv1D holds transposed weights."""
    ours = create("webtext/gpt3-width=32-heads=4-vocab=50-context=16", seed=3)
    config = transformers.GPT2Config(
        n_layer=3, n_embd=32, n_head=4, vocab_size=50, n_positions=16, activation_function="gelu"
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        theirs.transformer.wte.weight.copy_(ours.tokens.weight)
        theirs.transformer.wpe.weight.copy_(ours.positions.weight)
        pairs = [("norm1", "ln_1"), ("norm2", "ln_2"), ("attn.qkv", "attn.c_attn"), ("attn.proj", "attn.c_proj")]
        pairs += [("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")]
        for block, other in zip(ours.blocks, theirs.transformer.h, strict=True):
            for name, their_name in pairs:
                weight = block.get_submodule(name).weight
                other.get_submodule(their_name).weight.copy_(weight.T if weight.ndim == 2 else weight)
        tokens = torch.randint(50, (2, 16), generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-6)
    assert theirs.transformer.h[0].attn.c_attn.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert ours.blocks[1].mlp.fc2.weight.std().item() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)


def test_vit_is_that_of_timm():
    ours = create("vit2-width=48-heads=3-patch=8", seed=1).eval()
    theirs = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=10
    ).eval()
    named = {"class_token": "cls_token", "positions": "pos_embed", "patches": "patch_embed.proj"}
    state = {}
    for key, value in ours.state_dict().items():
        first, dot, rest = key.partition(".")
        state[named.get(first, first) + dot + rest] = value
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def by_hand(model, name, tokens):
    """A GPT by its equations, in float64, with softmax, mask and normalization written out."""
    facts = parse_name(name)
    style, state = facts.style, {key: value.double() for key, value in model.state_dict().items()}
    heads, width, rows = facts.heads, facts.width, tokens.shape[1]

    def norm(key, x):
        if not style.rms:
            x = x - x.mean(-1, keepdim=True)
        x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return x * state[f"{key}.weight"] + (0 if style.rms else state[f"{key}.bias"])

    def linear(key, x):
        return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    def attention(key, x):
        q, k, v = linear(f"{key}.qkv", x).split(width, -1)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        logits = q @ k.transpose(-1, -2) / math.sqrt(width // heads)
        seen = torch.ones(rows, rows).tril() == 1
        weights = logits.masked_fill(~seen, -math.inf).exp()
        weights = weights / weights.sum(-1, keepdim=True)
        return linear(f"{key}.proj", (weights @ v).transpose(1, 2).flatten(2))

    def perceptron(key, x):
        act = {"gelu": lambda z: z * torch.special.ndtr(z), "relu": lambda z: z.clamp(min=0), "linear": lambda z: z}
        return linear(f"{key}.fc2", act[style.activation](linear(f"{key}.fc1", x)))

    blocks, x = facts.depth, math.sqrt(width) * state["tokens.weight"][tokens] + state["positions.weight"][:rows]
    fixed = {"sqrt": blocks**-0.5, "completep": 1 / blocks}.get(style.scale, 1.0)
    for place in range(blocks):
        for number, (layer, function) in enumerate((("attn", attention), ("mlp", perceptron)), 1):
            key = f"blocks.{place}"
            first = norm(f"{key}.norm{number}", x) if style.norm in ("pre", "sandwich") else x
            branch = function(f"{key}.{layer}", first)
            if style.norm == "sandwich":
                branch = norm(f"{key}.after{number}", branch)
            learnt = state.get(f"{key}.scale{number}", state.get(f"{key}.scale1"))
            branch = branch * (fixed if learnt is None else learnt)
            shortcut = x * ((2 * blocks) ** 0.25 if style.scale == "deepnorm" else 1)
            x = branch + (shortcut if style.shortcut else 0)
            x = norm(f"{key}.norm{number}", x) if style.norm == "post" else x
    x = norm("norm", x) if style.norm in ("pre", "sandwich") else x
    return x @ state["head.weight"].T


NAMES = [
    f"gpt3-width=16-heads=2-vocab=11-context=8-{words}"
    for words in (
        "norm=pre", "norm=post", "norm=sandwich-act=relu", "norm=none-act=linear", "rms", "norm=post-rms",
        "scale=deepnorm", "scale=sqrt", "scale=completep-norm=sandwich", "scale=fixup", "scale=skipinit",
        "scale=rezero", "scale=rezero-norm=pre", "shortcut=none", "shortcut=none-norm=post", "untied",
    )
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_gpt_by_its_equations(name):
    model = create(name, seed=5).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # moves zeros and ones away from where they hide a mistake
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64), alpha=0.1)
    tokens = torch.randint(11, (2, 8), generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), by_hand(model, name, tokens), rtol=1e-9, atol=1e-9)


def test_a_token_sees_none_behind_it():
    model = create("gpt2-width=16-heads=2-vocab=11-context=8", seed=0)
    tokens = torch.randint(11, (1, 8), generator=torch.Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 11
    with torch.no_grad():
        same = (model(tokens) == model(changed)).all(-1)[0]
    assert same[:5].all()
    assert not same[5]


def test_the_same_numbers_are_drawn_whatever_the_style():
    """A plain transformer has bitwise the weights of the residual one, and scaled ones are multiples of them."""
    one, plain = (create(f"gpt2-width=32-vocab=9{words}", seed=4) for words in ("", "-shortcut=none"))
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in one.state_dict().items())
    deep = create("gpt2-width=32-vocab=9-scale=deepnorm", seed=4)
    beta = (8 * 2) ** -0.25
    q, k, v = deep.blocks[1].attn.qkv.weight.chunk(3)
    q1, k1, v1 = one.blocks[1].attn.qkv.weight.chunk(3)
    torch.testing.assert_close((q, k, v), (q1, k1, beta * v1))
    fc1 = deep.blocks[0].mlp.fc1.weight
    torch.testing.assert_close(fc1, one.blocks[0].mlp.fc1.weight * beta * math.sqrt(2 / (5 * 32)) * math.sqrt(32))


def test_fixup_begins_at_the_identity():
    model = create("vit3-width=32-scale=fixup", seed=0)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not model(x).any(), "the classifier begins at 0"
        stream = model.patches(x)
        for block in model.blocks:
            tokens = stream.flatten(2).transpose(1, 2) if stream.ndim == 4 else stream
            assert torch.equal(block(tokens), tokens)
    scale = model.blocks[0].mlp.fc1.weight.std().item() * math.sqrt(32)
    assert scale == pytest.approx(6**-0.5, rel=0.05)


def test_the_stream_begins_at_a_variance_of_1():
    model = create("gpt1-width=512", seed=0)
    tokens = torch.randint(256, (4, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = model.embedding_scale * model.tokens(tokens) + model.positions(torch.arange(128))
    assert x.square().mean().item() == pytest.approx(1, rel=0.03)


@pytest.mark.parametrize("name", ["gpt2-width=32-vocab=9-context=8", "vit2-width=32-scale=skipinit"])
def test_built_by_name_saved_and_read_back(name, tmp_path):
    model = gl.build(f"{name}@init:3")
    assert model.network.name == name
    x = torch.randint(9, (2, 8)) if model.input_shape == (8,) else torch.randn(2, *model.input_shape)
    path = tmp_path / "net.safetensors"
    gl.save_checkpoint(model, path)
    with torch.no_grad():
        assert torch.equal(gl.build(f"{name}@{path}")(x), model(x))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("gpt4-scale=deepnorm-norm=pre", "the norm is post, not pre"),
        ("gpt4-heads=3", "3 heads do not divide the width of 256"),
        ("gpt4-init=gpt2-scale=sqrt", "no scale sqrt"),
        ("gpt4-shortcut=none-scale=sqrt", "there is none"),
        ("gpt4-scale=rezero-rms", "there is none"),
        ("vit4-patch=5", "patches of 5 pixels do not divide an image of 32"),
        ("vit4-vocab=5", "its options are those of vitDEPTH"),
        ("gpt4-act=sine", "act is gelu, relu, silu, tanh, linear, not 'sine'"),
    ],
)
def test_what_cannot_be_is_said(name, says):
    with pytest.raises(UsageError, match=says):
        parse_name(name)


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("gpt3-scale=deepnorm-norm=post", "gpt3-scale=deepnorm"),
        ("gpt5-norm=pre-act=gelu-width=256", "gpt5"),
        ("webtext/gpt3-scale=sqrt-init=lecun", "webtext/gpt3-scale=sqrt"),
        ("gpt3-rms-heads=8", "gpt3-heads=8-rms"),
    ],
)
def test_a_canonical_name_leaves_out_the_defaults(name, canonical):
    assert parse_name(name).name == canonical
    assert parse_name(canonical) == parse_name(name)


def test_the_stream_is_what_torch_computes_too():
    """torch's own encoder layer, post-norm with ReLU, on the weights of ours."""
    ours = create("vit1-width=32-heads=4-norm=post-act=relu", seed=2).eval().blocks[0]
    theirs = torch.nn.TransformerEncoderLayer(32, 4, 128, 0.0, layer_norm_eps=1e-6, batch_first=True).eval()
    pairs = {"self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1."}
    pairs |= {"linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2."}
    state = ours.state_dict()
    theirs.load_state_dict({a + end: state[b + end] for a, b in pairs.items() for end in ("weight", "bias")})
    x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-6)


def test_a_name_of_a_published_model_asks() -> None:
    with pytest.raises(UsageError, match="GPT-2 is webtext/gpt12"):
        parse_name("gpt2")
    small = parse_name("gpt2-width=256")
    assert small.name == "gpt2-width=256"
    assert parse_name(small.name) == small
    assert parse_name("gpt5").name == "gpt5"
