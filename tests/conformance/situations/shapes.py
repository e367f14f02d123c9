"""Inputs without a batch dimension, empty ones, folded ones; constants that are looked up once for all examples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import INPUTS, TOKENS, Batch, Net, Situation, refusing, sequences, tokens, vectors
from conformance.situations.networks import mlp, mlp_by_hand

KIND = "Shapes"


def one_vector() -> list[Batch]:
    return [(torch.randn(4), torch.tensor(1))]


def summed_classification(net: Net, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(net(x), y, reduction="sum")


class OneByOne(nn.Module):
    """A layer that is called on one vector after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([torch.tanh(self.mid(row)) for row in x]))


def one_by_one_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", torch.stack([torch.tanh(net.linear("mid", row)) for row in x]))


class Lambda(nn.Module):
    """Parameters of the root without any dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.lambda_param, self.temperature = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(2.0))
        self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.lambda_param * torch.tanh(self.mid(x))) / self.temperature


def lambda_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", x + net["lambda_param"] * torch.tanh(net.linear("mid", x))) / net["temperature"]


def empty_first(run: Net, x: Tensor, y: Tensor) -> None:
    """A batch of no examples, then one of all."""
    for some in (slice(0), slice(None)):
        run.backward(run.objective(run.net, x[some], y[some]))
    run.step()


class Folded(nn.Module):
    """Positions that are folded into the batch, and unfolded at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        return self.head(torch.tanh(self.mid(x.reshape(n * t, d)))).view(n, t, 3).mean(1)


def folded_by_hand(net: Reference, x: Tensor) -> Tensor:
    n, t, d = x.shape
    x = torch.tanh(net.linear("mid", x.reshape(n * t, d)))
    return net.linear("head", x).view(n, t, 3).mean(1)


class TimeFirst(nn.Module):
    """Time before the batch, inside."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mid(x.transpose(0, 1)))).mean(0)


def time_first_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", torch.tanh(net.linear("mid", x.transpose(0, 1)))).mean(0)


class Positions(nn.Module):
    """Position embeddings of shape (T, d), looked up once for all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.pos, self.fc = nn.Embedding(7, 6), nn.Embedding(16, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.tok(x) + self.pos(torch.arange(x.shape[1])))).mean(1)


def positions_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.embedding("tok", x) + net.embedding("pos", torch.arange(x.shape[1]))
    return net.linear("fc", torch.tanh(x)).mean(1)


class OnConstants(nn.Module):
    """A layer that is called on constants, whose output multiplies those of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.rel, self.fc = nn.Linear(4, 4), nn.Linear(4, 3)
        self.register_buffer("eye", torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(x @ self.rel(self.eye)))


def on_constants_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("fc", torch.tanh(x @ net.linear("rel", net["eye"])))


class Padded(nn.Module):
    """An embedding whose padding gets no gradient, on texts of several lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.fc = nn.Embedding(7, 6, padding_idx=0), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.tok(x)).sum(1))


def padded_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("tok", F.embedding(x, net["tok.weight"], padding_idx=0))
    return net.linear("fc", torch.tanh(x).sum(1))


def next_token(net: Net, x: Tensor, y: Tensor) -> Tensor:
    """The mean over all positions of all examples."""
    return F.cross_entropy(net(x).flatten(0, 1), x.flatten() % 3)


class EachPosition(nn.Module):
    """Logits for each position."""

    def __init__(self) -> None:
        super().__init__()
        self.tok, self.fc = nn.Embedding(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.tanh(self.tok(x).cumsum(1)))


def each_position_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("fc", torch.tanh(net.embedding("tok", x).cumsum(1)))


SITUATIONS = [
    Situation(
        "no batch dimension",
        KIND,
        mlp,
        mlp_by_hand,
        data=one_vector,
        refused={**refusing("examples"), INPUTS: "batch"},
    ),
    Situation("a layer called on one vector after the other", KIND, OneByOne, one_by_one_by_hand),
    Situation("scalar parameters of the root", KIND, Lambda, lambda_by_hand),
    Situation("a batch of one", KIND, mlp, mlp_by_hand, data=lambda: vectors(1)),
    Situation(
        "an empty batch, then a full one",
        KIND,
        mlp,
        mlp_by_hand,
        objective=summed_classification,
        loop=empty_first,
        reduction="sum",
        refused=refusing("empty batch"),
    ),
    Situation("positions folded into the batch", KIND, Folded, folded_by_hand, data=sequences),
    Situation("time before the batch", KIND, TimeFirst, time_first_by_hand, data=sequences),
    Situation("position embeddings, T other than B", KIND, Positions, positions_by_hand, data=tokens, refused=TOKENS),
    Situation(
        "position embeddings, T equal to B",
        KIND,
        Positions,
        positions_by_hand,
        data=lambda: tokens(4, 4),
        refused=TOKENS,
    ),
    Situation("a layer called on constants", KIND, OnConstants, on_constants_by_hand),
    Situation(
        "a layer called on constants, as many as examples",
        KIND,
        OnConstants,
        on_constants_by_hand,
        data=lambda: vectors(4),
    ),
    Situation("an embedding with padding", KIND, Padded, padded_by_hand, data=tokens, refused=TOKENS),
    Situation(
        "a loss over all positions",
        KIND,
        EachPosition,
        each_position_by_hand,
        data=tokens,
        objective=next_token,
        refused=TOKENS,
    ),
]
