"""Networks that many situations share, each with its forward pass by hand."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conformance.reference import Reference


def mlp() -> nn.Module:
    """Two linear layers, on vectors of 4 values."""
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def mlp_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("2", torch.tanh(net.linear("0", x)))


class Parts(nn.Module):
    """Two blocks of two linear layers and a head, whose parts a loop may call."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)) for _ in range(2)]
        self.body, self.head = nn.Sequential(*blocks), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


def body_by_hand(net: Reference, x: Tensor) -> Tensor:
    for block in ("body.0", "body.1"):
        x = net.note(block, net.linear(f"{block}.2", torch.relu(net.linear(f"{block}.0", x))), block=True)
    return x


def head_by_hand(net: Reference, x: Tensor) -> Tensor:
    return net.linear("head", x)


def parts_by_hand(net: Reference, x: Tensor) -> Tensor:
    return head_by_hand(net, body_by_hand(net, x))


def normalized() -> nn.Module:
    """Convolution, batch normalization by running statistics, ReLU in place, another convolution; on images."""
    net = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 3, 3),
        nn.Flatten(),
        nn.Linear(27, 3),
    )
    randomize(net)
    return net.eval()


def randomize(net: nn.Module) -> None:
    """Normalization that is far from the identity."""
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5)
                module.running_var.uniform_(0.5, 1.5)
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)


def normalized_by_hand(net: Reference, x: Tensor) -> Tensor:
    x = net.note("0", net.batch_norm("1", F.conv2d(x, *net.of("0"), padding=1)))
    x = net.note("3", F.conv2d(torch.relu(x), *net.of("3")))
    return net.linear("5", x.flatten(1))


def attention_by_hand(
    net: Reference, name: str, query: Tensor, key: Tensor, value: Tensor, heads: int, *, batch_first: bool = True
) -> Tensor:
    """`nn.MultiheadAttention`: three projections, packed or not, attention of each head, and the projection out."""
    width = query.shape[-1]
    if f"{name}.in_proj_weight" in net.weights:
        weights = net[f"{name}.in_proj_weight"].chunk(3)
    else:
        weights = tuple(net[f"{name}.{part}_proj_weight"] for part in "qkv")
    biases = net[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (
        net.note(f"{name}.{part}", F.linear(x, weight, bias))
        for part, x, weight, bias in zip(("query", "key", "value"), (query, key, value), weights, biases, strict=True)
    )
    if not batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    q, k, v = (x.unflatten(-1, (heads, width // heads)).transpose(1, 2) for x in (q, k, v))
    mixed = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1) @ v
    mixed = mixed.transpose(1, 2).flatten(2)
    if not batch_first:
        mixed = mixed.transpose(0, 1)
    return net.note(f"{name}.out_proj", F.linear(mixed, *net.of(f"{name}.out_proj")))


def attention_rows(name: str, width: int, *, packed: bool = True) -> dict[str, list[str | tuple[str, slice]]]:
    """The rows of an `nn.MultiheadAttention`."""
    rows: dict[str, list[str | tuple[str, slice]]] = {}
    for i, part in enumerate(("query", "key", "value")):
        third = (f"{name}.in_proj_weight", slice(i * width, (i + 1) * width))
        rows[f"{name}.{part}"] = [third if packed else f"{name}.{part[0]}_proj_weight"]
    return {**rows, f"{name}.out_proj": [f"{name}.out_proj.weight"]}


def recurrent_by_hand(
    net: Reference, name: str, x: Tensor, kind: str, suffix: str = "l0"
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of one layer of `nn.RNN`, `nn.LSTM` or `nn.GRU` on (B, T, d): outputs, last one, last cell."""
    wi, wh, bi, bh = (net[f"{name}.{part}_{suffix}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    h = c = x.new_zeros(len(x), wh.shape[1])
    outputs = []
    for t in range(x.shape[1]):
        a, b = F.linear(x[:, t], wi, bi), F.linear(h, wh, bh)
        if kind == "rnn":
            h = torch.tanh(a + b)
        elif kind == "lstm":
            i, f, g, o = (a + b).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
            r, z = (ar + br).sigmoid(), (az + bz).sigmoid()
            h = (1 - z) * torch.tanh(an + r * bn) + z * h
        outputs.append(h)
    return torch.stack(outputs, 1), h, c
