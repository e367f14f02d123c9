"""Weights that are used outside of their layer, shared, made, reparametrized, frozen, odd."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from conformance.reference import Reference
from conformance.situation import TOKENS, Net, Situation, refusing, tokens
from conformance.situations.networks import mlp, mlp_by_hand

KIND = "Weights"


class Tied(nn.Module):
    """The head is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.mid = nn.Embedding(7, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(self.mid(self.emb(x).mean(1))), self.emb.weight)


def tied_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = net.linear("mid", net.embedding("emb", x).mean(1))
    return net.note("emb", F.linear(torch.tanh(h), net["emb.weight"]))


def penalty(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y) + 0.5 * net.get_parameter("0.weight").square().sum()


class TiedModule(nn.Module):
    """Two modules own one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.emb, self.head = nn.Embedding(7, 6), nn.Linear(6, 7)
        self.head.weight = self.emb.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.emb(x).mean(1)))


def tied_module_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = torch.tanh(net.embedding("emb", x).mean(1))
    return net.note("head", F.linear(h, net["emb.weight"], net["head.bias"]))


class Repeated(nn.Module):
    """One layer that is called three times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return self.head(x)


def repeated_by_hand(net: Reference, x: Tensor) -> Tensor:
    for _ in range(3):
        x = torch.tanh(net.linear("layer", x))
    return net.linear("head", x)


def two_names() -> nn.Module:
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Tanh(), nn.Linear(4, 3))


def two_names_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = torch.tanh(net.linear("0", x))
    return net.linear("4", torch.tanh(net.linear("0", x)))


class Hyper(nn.Module):
    """The weight of one layer is what another gives."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper, self.head = nn.Linear(2, 16), nn.Linear(4, 3)
        self.register_buffer("code", torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(F.linear(x, self.hyper(self.code).view(4, 4))))


def hyper_by_hand(net: Reference, x: Tensor) -> Tensor:
    made = net.linear("hyper", net["code"]).view(4, 4)
    return net.linear("head", torch.tanh(F.linear(x, made)))


class MadeInside(nn.Module):
    """A layer that is made inside forward, and given a weight of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        layer = nn.Linear(4, 4, bias=False, device="meta")
        layer.weight = self.w
        return self.head(torch.tanh(layer(x)))


def raw_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", torch.tanh(net.note("w", F.linear(x, net["w"]))))


class MadeFromAnother(nn.Module):
    """A layer that is made inside forward, and given a weight which another layer gives."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper, self.head = nn.Linear(2, 16), nn.Linear(4, 3)
        self.register_buffer("code", torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        layer = nn.Linear(4, 4, bias=False, device="meta")
        del layer.weight
        layer.weight = self.hyper(self.code).view(4, 4)
        return self.head(torch.tanh(layer(x)))


class Raw(nn.Module):
    """A weight of the model's own, applied by a function."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.w, self.head, self.how = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3), how

    def forward(self, x: Tensor) -> Tensor:
        x = x @ self.w if self.how == "matmul" else torch.einsum("bi,io->bo", x, self.w)
        return self.head(torch.tanh(x))


def raw_right_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", torch.tanh(net.note("w", x @ net["w"])))


class Embedded(nn.Module):
    """A class token and position embeddings of the model's own, which are only added."""

    def __init__(self) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 4, 4))
        self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        return self.head(torch.tanh(self.mid(x)).mean(1))


def embedded_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = torch.cat([net["cls_token"].expand(len(x), -1, -1), x], 1) + net["pos_embed"]
    return net.linear("head", torch.tanh(net.linear("mid", x)).mean(1))


def reparametrized(how: str) -> nn.Module:
    net = mlp()
    nn.init.constant_(net[0].bias, 2.0)
    {
        "prune": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
        "weight_norm": weight_norm,
        "spectral_norm": spectral_norm,
        "new weight_norm": parametrizations.weight_norm,
        "new spectral_norm": parametrizations.spectral_norm,
        "own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    }[how](net[0])
    return net.double().eval()


class Doubled(nn.Module):
    """A parametrization that draws a weight towards its tanh."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) + 0.1 * x


def pruned_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", F.linear(x, net["0.weight_orig"] * net["0.weight_mask"], net["0.bias"]))
    return net.linear("2", torch.tanh(x))


def weight_norm_by_hand(g: str, v: str):
    def forward(net: Reference, x: Tensor) -> Tensor:
        weight = net[g] * net[v] / net[v].norm(dim=1, keepdim=True)
        return net.linear("2", torch.tanh(net.note("0", F.linear(x, weight, net["0.bias"]))))

    return forward


def spectral_norm_by_hand(prefix: str, original: str):
    def forward(net: Reference, x: Tensor) -> Tensor:
        w, u, v = net[original], net[f"{prefix}_u"], net[f"{prefix}_v"]
        x = net.note("0", F.linear(x, w / (u @ (w @ v)), net["0.bias"]))
        return net.linear("2", torch.tanh(x))

    return forward


def own_parametrization_by_hand(net: Reference, x: Tensor) -> Tensor:
    w = net["0.parametrizations.weight.original"]
    x = net.note("0", F.linear(x, torch.tanh(w) + 0.1 * w, net["0.bias"]))
    return net.linear("2", torch.tanh(x))


def rows_of_first(*parts: str) -> dict[str, list[str]]:
    return {"0": list(parts), "2": ["2.weight"]}


ORIGINAL = "0.parametrizations.weight.original"

SITUATIONS = [
    Situation("head tied to the embedding by F.linear", KIND, Tied, tied_by_hand, data=tokens, refused=TOKENS),
    Situation("a penalty on a weight in the loss", KIND, mlp, mlp_by_hand, objective=penalty, refused=refusing("0")),
    Situation(
        "one weight in two modules",
        KIND,
        TiedModule,
        tied_module_by_hand,
        data=tokens,
        rows={"emb": ["emb.weight"], "head": ["emb.weight"]},
        refused=TOKENS,
    ),
    Situation("one module called three times", KIND, Repeated, repeated_by_hand),
    Situation("one module under two names", KIND, two_names, two_names_by_hand),
    Situation("a weight that another layer makes", KIND, Hyper, hyper_by_hand),
    Situation("a weight given to a layer made inside forward", KIND, MadeInside, raw_by_hand),
    Situation("a made weight given to a layer made inside forward", KIND, MadeFromAnother, hyper_by_hand),
    Situation("a weight of the model's own, by x @ w", KIND, lambda: Raw("matmul"), raw_right_by_hand),
    Situation("a weight of the model's own, by einsum", KIND, lambda: Raw("einsum"), raw_right_by_hand),
    Situation("pruned", KIND, lambda: reparametrized("prune"), pruned_by_hand, rows=rows_of_first("0.weight_orig")),
    Situation(
        "weight_norm, the older one",
        KIND,
        lambda: reparametrized("weight_norm"),
        weight_norm_by_hand("0.weight_g", "0.weight_v"),
        rows=rows_of_first("0.weight_g", "0.weight_v"),
    ),
    Situation(
        "spectral_norm, the older one",
        KIND,
        lambda: reparametrized("spectral_norm"),
        spectral_norm_by_hand("0.weight", "0.weight_orig"),
        rows=rows_of_first("0.weight_orig"),
    ),
    Situation(
        "weight_norm as a parametrization",
        KIND,
        lambda: reparametrized("new weight_norm"),
        weight_norm_by_hand(f"{ORIGINAL}0", f"{ORIGINAL}1"),
        rows=rows_of_first(f"{ORIGINAL}0", f"{ORIGINAL}1"),
    ),
    Situation(
        "spectral_norm as a parametrization",
        KIND,
        lambda: reparametrized("new spectral_norm"),
        spectral_norm_by_hand("0.parametrizations.weight.0.", ORIGINAL),
        rows=rows_of_first(ORIGINAL),
    ),
    Situation(
        "a parametrization of one's own",
        KIND,
        lambda: reparametrized("own"),
        own_parametrization_by_hand,
        rows=rows_of_first(ORIGINAL),
    ),
]
