"""Every architecture that the tests go through: how it is built, what it is run on, and what has no response."""

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from architectures import library_models as library
from architectures import own_models as own
from architectures import torchvision_models as tv
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Inputs by argument name; every one has the examples as its first dimension."""


@dataclass(frozen=True)
class Architecture:
    """A network from a small configuration, and a batch for it.

    Attributes:
        name: Of its test.
        build: Makes it, with random weights.
        batch: Makes its inputs.
        no_response: Globs of the parameters that are not applied to a signal: they are added to it, scale it, or are
            what another tensor is computed from.
        slow: Whether its test takes seconds.
        dtype: Of its parameters.
        tolerance: Relative, for numbers; wider where a part computes in single precision whatever it is given.
    """

    name: str
    build: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    no_response: tuple[str, ...] = ()
    slow: bool = False
    dtype: torch.dtype = torch.float64
    tolerance: float = 1e-9

    def model(self) -> nn.Module:
        """In eval mode and double precision, with nothing that is exactly zero, one or at its initial place."""
        torch.manual_seed(0)
        model = self.build().to(self.dtype).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim < 2 or not parameter.any():
                    parameter.add_(0.2 * torch.randn_like(parameter))
            for name, buffer in model.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    buffer.add_(0.5 * torch.rand_like(buffer))
        return model

    def inputs(self) -> Batch:
        torch.manual_seed(1)
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in self.batch().items()}

    def responds(self, parameter: str) -> bool:
        """Whether a parameter is applied to a signal."""
        return not any(fnmatch.fnmatchcase(parameter, glob) for glob in self.no_response)


def examples_of(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def example(batch: Batch, i: int) -> Batch:
    return {name: value[i : i + 1] for name, value in batch.items()}


def loss_of(output: Any) -> Tensor:
    """The model's own loss where it gives one; else cross-entropy of each output with class 1, a mean over examples."""
    if isinstance(output, Mapping) and output.get("loss") is not None:
        return output["loss"]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple) else [output]
    losses = []
    for part in parts:
        if isinstance(part, Tensor) and part.is_floating_point():
            logits = part.flatten(1)
            losses.append(F.cross_entropy(logits, torch.ones(len(logits), dtype=torch.long)))
    return torch.stack(losses).sum()


def _images(size: int, n: int = 2, argument: str = "x") -> Callable[[], Batch]:
    return lambda: {argument: torch.randn(n, 3, size, size)}


def _signals(*shape: int, argument: str = "x") -> Callable[[], Batch]:
    return lambda: {argument: torch.randn(3, *shape)}


def _tokens(length: int = 7, vocabulary: int = 20, argument: str = "tokens") -> Callable[[], Batch]:
    return lambda: {argument: torch.randint(3, vocabulary, (3, length))}


def _language(length: int = 7) -> Batch:
    tokens = torch.randint(3, 40, (3, length))
    return {"input_ids": tokens, "labels": tokens}


def _translation() -> Batch:
    return {"input_ids": torch.randint(3, 40, (3, 6)), "labels": torch.randint(3, 40, (3, 5))}


def _classified(**inputs: Callable[[], Batch]) -> Callable[[], Batch]:
    def batch() -> Batch:
        found = {name: make()[name] for name, make in inputs.items()}
        return {**found, "labels": torch.arange(len(next(iter(found.values())))) % 2}

    return batch


def _graphs() -> Batch:
    edges = (torch.rand(3, 6, 6) < 0.4).double()
    return {"nodes": torch.randn(3, 6, 5), "adjacency": ((edges + edges.mT + torch.eye(6)) > 0).double()}


def _lstm(cell: type[nn.RNNBase], **options: object) -> Callable[[], nn.Module]:
    return lambda: own.SequenceClassifier(cell, **options)


VIT = ("*cls_token", "*class_token", "*dist_token", "*reg_token", "*pos_embed*", "*position_embeddings")
TABLES = ("*relative_position_bias_table", "*logit_scale")
SINGLE = 1e-4
STATES = ("*A_log", "*a_log")

ARCHITECTURES = [
    Architecture("resnet", tv.resnet, _images(32), slow=True),
    Architecture("resnext", tv.resnext, _images(32), slow=True),
    Architecture("vgg", tv.vgg_bn, _images(32)),
    Architecture("alexnet", tv.alexnet, _images(64)),
    Architecture("densenet", tv.densenet, _images(64)),
    Architecture("densenet-checkpointed", tv.densenet_checkpointed, _images(32)),
    Architecture("mobilenet-v2", tv.mobilenet_v2, _images(32)),
    Architecture("mobilenet-v3", tv.mobilenet_v3, _images(32)),
    Architecture("mnasnet", tv.mnasnet, _images(32)),
    Architecture("efficientnet", tv.efficientnet, _images(32)),
    Architecture("efficientnet-v2", tv.efficientnet_v2, _images(32)),
    Architecture("convnext", tv.convnext_reduced, _images(32), ("*layer_scale",)),
    Architecture("swin", tv.swin, _images(32), TABLES),
    Architecture("swin-v2", tv.swin_v2, _images(32), TABLES),
    Architecture("vit", tv.vit, _images(32), VIT),
    Architecture("maxvit", tv.maxvit, _images(32), TABLES),
    Architecture("regnet", tv.regnet_reduced, _images(32)),
    Architecture("shufflenet", tv.shufflenet, _images(32)),
    Architecture("squeezenet", tv.squeezenet, _images(32)),
    Architecture("googlenet", tv.googlenet, _images(32), slow=True),
    Architecture("fcn", tv.fcn, _images(16)),
    Architecture("deeplab", tv.deeplab, _images(16)),
    Architecture("feature-pyramid", tv.FeaturePyramid, _images(16)),
    Architecture("timm-vit", library.timm_vit, _images(32), VIT),
    Architecture("timm-vit-registers", library.timm_vit_registers, _images(32), VIT),
    Architecture("timm-deit-distilled", library.timm_deit_distilled, _images(32), VIT),
    Architecture("timm-beit", library.timm_beit, _images(32), (*VIT, *TABLES)),
    Architecture("timm-swin", library.timm_swin, _images(32), TABLES),
    Architecture("timm-convnext", library.timm_convnext, _images(32)),
    Architecture("timm-convnext-v2", library.timm_convnext_v2, _images(32)),
    Architecture("timm-mixer", library.timm_mixer, _images(32)),
    Architecture("timm-efficientnet", library.timm_efficientnet, _images(32)),
    Architecture("timm-resnet", library.timm_resnet, _images(32)),
    Architecture("timm-resnetv2", library.timm_resnetv2, _images(32)),
    Architecture("gpt2", library.gpt2, _language, tolerance=SINGLE),
    Architecture("bert", library.bert, _classified(input_ids=_tokens(argument="input_ids"))),
    Architecture("bert-masked", library.bert_masked, _language, tolerance=SINGLE),
    Architecture("t5", library.t5, _translation, tolerance=SINGLE),
    Architecture("llama", library.llama, _language, tolerance=SINGLE),
    Architecture("mixtral", lambda: library.mixtral("eager"), _language, tolerance=SINGLE),
    Architecture(
        "mixtral-grouped", lambda: library.mixtral("grouped_mm"), _language, dtype=torch.float32, tolerance=SINGLE
    ),
    Architecture("mamba", library.mamba, _language, STATES, tolerance=SINGLE),
    Architecture("hf-vit", library.hf_vit, _classified(pixel_values=_images(32, argument="pixel_values")), VIT),
    Architecture("wav2vec2", library.wav2vec2, _classified(input_values=_signals(400, argument="input_values"))),
    Architecture("lstm", _lstm(nn.LSTM), _tokens()),
    Architecture("lstm-deep", _lstm(nn.LSTM, num_layers=2, bidirectional=True, proj_size=10), _tokens()),
    Architecture("gru", _lstm(nn.GRU), _tokens()),
    Architecture("rnn", _lstm(nn.RNN, num_layers=2), _tokens()),
    Architecture("unet", own.UNet, _images(16)),
    Architecture("gpt", lambda: own.TinyGPT("own"), _tokens(12), ("positions",)),
    Architecture("gpt-tied-layer", lambda: own.TinyGPT("tied"), _tokens(12), ("positions",)),
    Architecture("gpt-tied-function", lambda: own.TinyGPT("function"), _tokens(12), ("positions",)),
    Architecture(
        "transformer", own.EncoderDecoder, lambda: {"source": torch.randn(3, 6, 5), "target": torch.randn(3, 4, 5)}
    ),
    Architecture("encoder-post-norm", lambda: own.Encoder(False), _signals(5, 6), ("token",)),
    Architecture("encoder-pre-norm", lambda: own.Encoder(True), _signals(5, 6), ("token",)),
    Architecture(
        "cross-attention",
        own.CrossAttention,
        lambda: {"x": torch.randn(3, 4, 5), "keys": torch.randn(3, 7, 6), "values": torch.randn(3, 7, 10)},
        ("*bias_k", "*bias_v"),
    ),
    Architecture("state-space", own.StateSpaceClassifier, _tokens(6), STATES),
    Architecture("graph", own.GraphNet, _graphs),
    Architecture("autoencoder-transposed", own.Autoencoder, _signals(1, 4, 4, 4), ("position",)),
]
