"""Small networks of several libraries, with the places where plain hooks find each block's streams and branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlab as gl


@dataclass(frozen=True)
class Place:
    """Where a hook finds a tensor: what a module is first given, or returns, in one of its calls; times a factor."""

    module: str
    side: str
    call: int = 0
    factor: float = 1.0


def given(module: str, call: int = 0) -> Place:
    return Place(module, "given", call)


def returned(module: str, call: int = 0, factor: float = 1.0) -> Place:
    return Place(module, "returned", call, factor)


@dataclass(frozen=True)
class Row:
    """One branch of a block: the stream before it, the branch as it is added, and the stream behind it."""

    block: str
    branch: str
    stream: Place
    added: Place
    behind: Place
    channel: int = -1


@dataclass(frozen=True)
class Network:
    model: nn.Module
    inputs: dict[str, Tensor] | Tensor
    rows: list[Row]

    def run(self) -> Tensor:
        """The model's output, or the first tensor in it."""
        torch.manual_seed(1)
        output = self.model(**self.inputs) if isinstance(self.inputs, dict) else self.model(self.inputs)
        return output if isinstance(output, Tensor) else output[0]


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def tokens() -> Tensor:
    return torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))


def of_class(model: nn.Module, *kinds: str) -> list[str]:
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds]


def disturbed(model: nn.Module, seed: int = 3) -> nn.Module:
    """Scales of branches and gains of normalization that are neither 0, 1 nor tiny."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = name.rpartition(".")[2]
            if parameter.ndim < 2 or last in ("gain", "gamma", "layer_scale", "skipinit_gain"):
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model


def two_branches(
    block: str, first: Place, second: Place, middle: str, names: tuple[str, str] = ("attn", "mlp")
) -> list[Row]:
    """Pre-norm: the second normalization is given the stream between both branches."""
    return [
        Row(block, names[0], given(block), first, given(middle)),
        Row(block, names[1], given(middle), second, returned(block)),
    ]


def torchvision_resnet(name: str) -> Network:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=5)
    last = "bn3" if "50" in name else "bn2"
    rows = [
        Row(block, "", stream_of(model, block, "downsample"), returned(f"{block}.{last}"), returned(block), 1)
        for block in of_class(model, "BasicBlock", "Bottleneck")
    ]
    return Network(disturbed(model), images(), rows)


def stream_of(model: nn.Module, block: str, projection: str) -> Place:
    """What a shortcut's projection returns, where there is one; else what the block is given."""
    inside = dict(model.get_submodule(block).named_modules())
    there = inside.get(projection)
    return given(block) if there is None or isinstance(there, nn.Identity) else returned(f"{block}.{projection}")


def torchvision_convnext() -> Network:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.convnext_tiny(num_classes=5, stochastic_depth_prob=0.3)
    rows = [
        Row(block, "", given(block), returned(f"{block}.stochastic_depth"), returned(block), 1)
        for block in of_class(model, "CNBlock")
    ]
    return Network(disturbed(model), images(64), rows)


def torchvision_vit() -> Network:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 3, 2, 32, 64, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    rows = [
        row
        for block in of_class(model, "EncoderBlock")
        for row in two_branches(block, returned(f"{block}.dropout"), returned(f"{block}.mlp"), f"{block}.ln_2")
    ]
    return Network(model, images(), rows)


def torchvision_swin() -> Network:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.SwinTransformer(
        [2, 2], 24, [2, 2], [2, 4], [4, 4], num_classes=5, stochastic_depth_prob=0.5
    )
    rows = []
    for block in of_class(model, "SwinTransformerBlock"):
        dropped = f"{block}.stochastic_depth"
        rows += two_branches(block, returned(dropped, 0), returned(dropped, 1), f"{block}.norm2")
    return Network(model, images(), rows)


def timm_transformer(name: str, **options: Any) -> Network:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, drop_path_rate=0.3, **options)
    rows = []
    for block in of_class(model, "Block", "SwinTransformerBlock"):
        rows += two_branches(block, returned(f"{block}.drop_path1"), returned(f"{block}.drop_path2"), f"{block}.norm2")
    return Network(disturbed(model), images(), rows)


def timm_convolutional(name: str, kind: str, projection: str, size: int, **options: Any) -> Network:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = disturbed(timm.create_model(name, num_classes=5, **options))
    rows = []
    for block in of_class(model, kind):
        module = model.get_submodule(block)
        # A normalization-free block scales its branch by numbers of its own, in place and not.
        gain = getattr(module, "skipinit_gain", None)
        factor = getattr(module, "alpha", 1.0) * (1.0 if gain is None else gain.item())
        added = returned(f"{block}.drop_path", factor=factor)
        rows.append(Row(block, "", stream_of(model, block, projection), added, returned(block), 1))
    return Network(model, images(size), rows)


def gpt2() -> Network:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_layer": 3, "n_embd": 32, "n_head": 4, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 0}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))
    rows = []
    for block in of_class(model, "GPT2Block"):
        rows += two_branches(block, returned(f"{block}.attn"), returned(f"{block}.mlp"), f"{block}.ln_2")
    return Network(model, {"input_ids": tokens()}, rows)


def bert() -> Network:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    model = disturbed(transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=50, **sizes)))
    rows = []
    for block in of_class(model, "BertLayer"):
        middle = f"{block}.attention.output"
        rows += [
            Row(block, "attn", given(block), returned(f"{middle}.dropout"), returned(middle)),
            Row(block, "mlp", returned(middle), returned(f"{block}.output.dropout"), returned(block)),
        ]
    return Network(model, {"input_ids": tokens(), "attention_mask": torch.ones_like(tokens())}, rows)


def t5() -> Network:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_layers": 2, "d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "vocab_size": 50}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(decoder_start_token_id=0, **sizes))
    rows = []
    for block in of_class(model, "T5Block"):
        layers = [name for name, _ in model.get_submodule(block).layer.named_children()]
        names = ["attn", "mlp"] if len(layers) == 2 else ["SelfAttention", "EncDecAttention", "DenseReluDense"]
        for name, number in zip(names, layers, strict=True):
            layer = f"{block}.layer.{number}"
            rows.append(Row(block, name, given(layer), returned(f"{layer}.dropout"), returned(layer)))
    return Network(
        model, {"input_ids": tokens(), "labels": tokens(), "attention_mask": torch.ones_like(tokens())}, rows
    )


def llama(kind: str, **options: Any) -> Network:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = getattr(transformers, f"{kind}Config")(vocab_size=50, intermediate_size=64, **sizes, **options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    rows = []
    for block in of_class(model, f"{kind}DecoderLayer"):
        first, second = returned(f"{block}.self_attn"), returned(f"{block}.mlp")
        rows += two_branches(block, first, second, f"{block}.post_attention_layernorm")
    return Network(model, {"input_ids": tokens()}, rows)


def parallel() -> Network:
    """Attention and MLP of one normalized stream, which are added to one another first."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 50, "rotary_dim": 4}
    model = transformers.GPTJForCausalLM(transformers.GPTJConfig(bos_token_id=0, eos_token_id=0, **sizes))
    rows = []
    for block in of_class(model, "GPTJBlock"):
        rows += [
            Row(block, branch, given(block), returned(f"{block}.{branch}"), returned(block))
            for branch in ("attn", "mlp")
        ]
    return Network(model, {"input_ids": tokens()}, rows)


def neox() -> Network:
    """Two normalizations of one stream, whose branches are added to one another first, the second of them first."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    model = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(vocab_size=50, hidden_dropout=0.2, **sizes))
    rows = []
    for block in of_class(model, "GPTNeoXLayer"):
        for name, dropout in (("mlp", "post_mlp_dropout"), ("attn", "post_attention_dropout")):
            rows.append(Row(block, name, given(block), returned(f"{block}.{dropout}"), returned(block)))
    return Network(disturbed(model).train(), {"input_ids": tokens()}, rows)


def ours(name: str, last: str, size: int) -> Network:
    model = disturbed(gl.build(name))
    rows = []
    for block in of_class(model, "BasicBlock"):
        shortcut = model.get_submodule(block).shortcut
        # A pre-activation block takes its input as it is where the shortcut is the identity.
        called = not ("preact" in name and isinstance(shortcut, nn.Identity))
        stream = returned(f"{block}.shortcut") if called else given(block)
        rows.append(Row(block, "", stream, returned(f"{block}.{last}"), returned(block), 1))
    return Network(model, images(size), rows)


class PostNormBlock(nn.Module):
    """x ← n₂(y + mlp(y)), y = n₁(a·x + attn(x)), as DeepNorm has it."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 4, batch_first=True)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.kept, self.scale = nn.Identity(), scale

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(self.kept(self.scale * x) + self.attn(x, x, x, need_weights=False)[0])
        return self.norm2(self.kept(self.scale * x) + self.down(torch.relu(self.up(x))))


class Stack(nn.Module):
    """An embedding, blocks and a head."""

    def __init__(self, blocks: list[nn.Module], width: int = 16) -> None:
        super().__init__()
        self.embed, self.blocks, self.head = nn.Embedding(50, width), nn.ModuleList(blocks), nn.Linear(width, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def post_norm() -> Network:
    torch.manual_seed(0)
    model = disturbed(Stack([PostNormBlock(16, 1.5) for _ in range(3)]))
    rows = []
    for block in of_class(model, "PostNormBlock"):
        rows += [
            Row(block, "attn", returned(f"{block}.kept", 0), returned(f"{block}.attn"), returned(f"{block}.norm1")),
            Row(block, "mlp", returned(f"{block}.kept", 1), returned(f"{block}.down"), returned(block)),
        ]
    return Network(model, tokens(), rows)


NETWORKS: dict[str, Callable[[], Network]] = {
    "torchvision-resnet18": lambda: torchvision_resnet("resnet18"),
    "torchvision-resnet50": lambda: torchvision_resnet("resnet50"),
    "torchvision-wide": lambda: torchvision_resnet("wide_resnet50_2"),
    "torchvision-convnext": torchvision_convnext,
    "torchvision-vit": torchvision_vit,
    "torchvision-swin": torchvision_swin,
    "timm-vit": lambda: timm_transformer("vit_tiny_patch16_224", img_size=32, depth=3, init_values=0.5),
    "timm-swin": lambda: timm_transformer(
        "swin_tiny_patch4_window7_224", img_size=32, depths=(2, 2), num_heads=(2, 4), embed_dim=24, window_size=4
    ),
    "timm-convnext": lambda: timm_convolutional("convnext_atto", "ConvNeXtBlock", "shortcut", 64, drop_path_rate=0.3),
    "timm-resnetv2": lambda: timm_convolutional("resnetv2_50", "PreActBottleneck", "downsample", 32),
    "timm-nfnet": lambda: timm_convolutional("nfnet_l0", "NormFreeBlock", "downsample", 64),
    "gpt2": gpt2,
    "bert": bert,
    "t5": t5,
    "llama": lambda: llama("Llama"),
    "mixtral": lambda: llama("Mixtral", num_local_experts=4),
    "gptj": parallel,
    "gpt-neox": neox,
    "resnet20": lambda: ours("resnet20@init", "bn2", 32),
    "resnet20-B": lambda: ours("resnet20-B@init", "bn2", 32),
    "resnet20-preact": lambda: ours("resnet20-preact@init", "conv2", 16),
    "resnet110-preact": lambda: ours("resnet110-preact@init", "conv2", 16),
    "post-norm": post_norm,
}
"""Networks by name."""
