"""What plain hooks make of a network's rows: copies of all tensors, float64, and sums written out."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from probes.blocks.networks import Network, Place, Row
from torch import Tensor


class Copies:
    """Copies of the tensors at some places of a network in one pass, and of their gradients."""

    def __init__(self, network: Network, places: set[Place]) -> None:
        self.values: dict[Place, Tensor] = {}
        self.gradients: dict[Place, Tensor] = {}
        self._calls: Counter[tuple[str, str]] = Counter()
        self._places = places
        for name in {place.module for place in places}:
            module = network.model.get_submodule(name)
            module.register_forward_pre_hook(self._before(name), with_kwargs=True)
            module.register_forward_hook(self._behind(name))

    def _before(self, name: str) -> Any:
        def hook(module: Any, args: Any, kwargs: Any) -> None:
            self._copy(name, "given", args[0] if args else next(iter(kwargs.values())))

        return hook

    def _behind(self, name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            self._copy(name, "returned", output if isinstance(output, Tensor) else output[0])

        return hook

    def _copy(self, name: str, side: str, tensor: Tensor) -> None:
        call = self._calls[name, side]
        self._calls[name, side] += 1
        for place in self._places:
            if (place.module, place.side, place.call) == (name, side, call):
                self.values[place] = tensor.detach().double().clone() * place.factor

                def arrived(gradient: Tensor, place: Place = place) -> None:
                    self.gradients[place] = gradient.double().clone() / place.factor

                tensor.register_hook(arrived)


def brute_force(network: Network, objective: Any) -> list[dict[str, float]]:
    """The values of each row."""
    places = {place for row in network.rows for place in (row.stream, row.added, row.behind)}
    copies = Copies(network, places)
    objective(network.run()).backward()
    return [_values(row, copies) for row in network.rows]


def _values(row: Row, copies: Copies) -> dict[str, float]:
    stream, added, behind = (copies.values[place] for place in (row.stream, row.added, row.behind))
    branch_gradient = copies.gradients[row.added]
    flat_stream, flat_added = stream.flatten(), added.flatten()
    return {
        "stream_std": math.sqrt(_variance(behind, row.channel)),
        "stream_mean_square": _mean_square(behind, row.channel),
        "branch_std": math.sqrt(_variance(added, row.channel)),
        "ratio": _variance(added, row.channel) / _variance(stream, row.channel),
        "cosine": ((flat_stream @ flat_added) / (flat_stream.norm() * flat_added.norm())).item(),
        "stream_grad_rms": copies.gradients[row.behind].square().mean().sqrt().item(),
        "branch_grad_rms": branch_gradient.square().mean().sqrt().item(),
    }


def _variance(values: Tensor, channel: int) -> float:
    """The mean over channels of each one's variance over examples and positions."""
    channels = values.movedim(channel, 0).flatten(1)
    return sum(one.var(correction=0).item() for one in channels) / len(channels)


def _mean_square(values: Tensor, channel: int) -> float:
    channels = values.movedim(channel, 0).flatten(1)
    return sum(one.mean().item() ** 2 for one in channels) / len(channels)
