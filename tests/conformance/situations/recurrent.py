"""Recurrent layers, by any of their outputs, and attention."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from conformance.reference import Reference
from conformance.situation import Part, Situation, refusing, sequences
from conformance.situations.networks import attention_by_hand, attention_rows, randomize, recurrent_by_hand

KIND = "Outputs"


class Recurrent(nn.Module):
    """A recurrent layer, of which the first output is used, the last, or both."""

    def __init__(self, kind: str, used: str, batch_first: bool = True) -> None:
        super().__init__()
        layer = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.cells, self.head = layer(4, 5, batch_first=batch_first), nn.Linear(5, 3)
        self.used, self.batch_first = used, batch_first

    def forward(self, x: Tensor) -> Tensor:
        outputs, last = self.cells(x if self.batch_first else x.transpose(0, 1))
        last = last[0] if isinstance(last, tuple) else last
        mean = outputs.mean(1 if self.batch_first else 0)
        return self.head({"first": mean, "last": last[0], "both": mean * last[0]}[self.used])


def recurrent_model_by_hand(kind: str, used: str, batch_first: bool, net: Reference, x: Tensor) -> Tensor:
    outputs, last, cell = recurrent_by_hand(net, "cells", x, kind)
    outputs = net.note("cells", outputs if batch_first else outputs.transpose(0, 1))
    # The state at the end is another response of the layer.
    if kind == "lstm":
        last = net.note("cells[1][0]", last[None], demanded=False)[0]
        net.note("cells[1][1]", cell[None], demanded=False)
    else:
        last = net.note("cells[1]", last[None], demanded=False)[0]
    mean = outputs.mean(1 if batch_first else 0)
    return net.linear("head", {"first": mean, "last": last, "both": mean * last}[used])


def recurrent_rows(*suffixes: str) -> dict[str, list[Part]]:
    names = [f"cells.{part}_{suffix}" for suffix in suffixes for part in ("weight_ih", "weight_hh")]
    return {**{name: [name] for name in names}, "head": ["head.weight"]}


class Deep(nn.Module):
    """Two layers of two directions."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.GRU(4, 3, num_layers=2, bidirectional=True, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cells(x)[0].mean(1))


def deep_by_hand(net: Reference, x: Tensor) -> Tensor:
    ends = []
    for layer in ("l0", "l1"):
        forth, end, _ = recurrent_by_hand(net, "cells", x, "gru", layer)
        back, start, _ = recurrent_by_hand(net, "cells", x.flip(1), "gru", f"{layer}_reverse")
        x = torch.cat([forth, back.flip(1)], 2)
        ends += [end, start]
    x = net.note("cells", x)
    net.note("cells[1]", torch.stack(ends), demanded=False)
    return net.linear("head", x.mean(1))


class Attending(nn.Module):
    """Attention, of one or of several inputs."""

    def __init__(self, *, apart: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        sizes = {"kdim": 3, "vdim": 2} if apart else {}
        self.attn, self.head = nn.MultiheadAttention(4, 2, batch_first=batch_first, **sizes), nn.Linear(4, 3)
        nn.init.normal_(self.attn.in_proj_bias)
        self.apart, self.batch_first = apart, batch_first

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.batch_first else x.transpose(0, 1)
        others = (x[..., :3], x[..., :2]) if self.apart else (x, x)
        mixed, _ = self.attn(x, *others, need_weights=False)
        return self.head(torch.tanh(mixed).mean(1 if self.batch_first else 0))


def attending_by_hand(apart: bool, batch_first: bool, net: Reference, x: Tensor) -> Tensor:
    x = x if batch_first else x.transpose(0, 1)
    others = (x[..., :3], x[..., :2]) if apart else (x, x)
    mixed = attention_by_hand(net, "attn", x, *others, heads=2, batch_first=batch_first)
    return net.linear("head", torch.tanh(mixed).mean(1 if batch_first else 0))


def attending(name: str, *, apart: bool = False, batch_first: bool = True) -> Situation:
    return Situation(
        name,
        KIND,
        lambda: Attending(apart=apart, batch_first=batch_first),
        functools.partial(attending_by_hand, apart, batch_first),
        data=sequences,
        rows={**attention_rows("attn", 4, packed=not apart), "head": ["head.weight"]},
    )


class Encoder(nn.Module):
    """torch's transformer layer, and a head."""

    def __init__(self, *, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True, norm_first=norm_first)
        self.encoder, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(4, 3)
        randomize(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


def encoder_by_hand(net: Reference, x: Tensor) -> Tensor:
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        x = net.layer_norm(f"{layer}.norm1", x + attention_by_hand(net, f"{layer}.self_attn", x, x, x, 2))
        h = torch.relu(net.linear(f"{layer}.linear1", x))
        x = net.note(layer, net.layer_norm(f"{layer}.norm2", x + net.linear(f"{layer}.linear2", h)), block=True)
    return net.linear("head", x.mean(1))


def encoder_rows() -> dict[str, list[Part]]:
    rows: dict[str, list[Part]] = {}
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        rows.update(attention_rows(f"{layer}.self_attn", 4))
        rows.update({f"{layer}.{name}": [f"{layer}.{name}.weight"] for name in ("linear1", "linear2")})
    return {**rows, "head": ["head.weight"]}


class AcrossExamples(nn.Module):
    """Attention among the examples of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.mid, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.mid(x)
        return self.head((h @ h.T).softmax(-1) @ h)


def across_examples_by_hand(net: Reference, x: Tensor) -> Tensor:
    h = net.linear("mid", x)
    return net.linear("head", (h @ h.T).softmax(-1) @ h)


def recurrent(name: str, kind: str, used: str, batch_first: bool = True) -> Situation:
    return Situation(
        name,
        KIND,
        lambda: Recurrent(kind, used, batch_first),
        functools.partial(recurrent_model_by_hand, kind, used, batch_first),
        data=sequences,
        rows=recurrent_rows("l0"),
    )


SITUATIONS = [
    recurrent("an LSTM by its first output", "lstm", "first"),
    recurrent("an LSTM by its last state", "lstm", "last"),
    recurrent("an LSTM by both outputs", "lstm", "both"),
    recurrent("an LSTM with time first", "lstm", "both", batch_first=False),
    recurrent("a GRU by its first output", "gru", "first"),
    recurrent("a GRU by its last state", "gru", "last"),
    recurrent("an RNN by both outputs", "rnn", "both"),
    recurrent("an RNN with time first", "rnn", "last", batch_first=False),
    Situation(
        "a GRU of two layers and two directions",
        KIND,
        Deep,
        deep_by_hand,
        data=sequences,
        rows=recurrent_rows("l0", "l0_reverse", "l1", "l1_reverse"),
    ),
    attending("attention, its projections packed"),
    attending("attention, its projections apart", apart=True),
    attending("attention with time first", batch_first=False),
    Situation("torch's transformer layers", KIND, Encoder, encoder_by_hand, data=sequences, rows=encoder_rows()),
    Situation(
        "attention among the examples of a batch",
        KIND,
        AcrossExamples,
        across_examples_by_hand,
        refused=refusing("examples"),
    ),
]
