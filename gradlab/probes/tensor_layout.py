"""Which ranks share the layers of a tensor-parallel model, and whether each has all of a response or a part."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.hooks import Hook
from gradlab.probes.outputs import measurable
from gradlab.probes.ranks import Ranks

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


@dataclass
class Layout:
    """How one rank takes part in tensor parallelism, as it travels between ranks.

    Attributes:
        peers: The numbers of the ranks that share the layers of a model, with this one; empty without any.
        parts: Whether this rank has seen a part of a site's responses and not all; only of sites of which it is known.
    """

    peers: tuple[int, ...] = ()
    parts: dict[Any, bool] = field(default_factory=dict)


class LayoutWatch:
    """Sees the whole shape of the outputs of layers that `parallelize_module` has split.

    Such a layer computes a DTensor, which knows the shape over all ranks. Only the hooks of its parallel style then
    make it this rank's tensor, which the model goes on with and probes measure.

    Args:
        model: The model that is measured.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layout = Layout()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def attach(self, stack: ExitStack) -> None:
        """Register hooks on the layers with parameters that are DTensors, their removal on the stack."""
        for name, module in self.model.named_modules():
            if any(hasattr(parameter, "placements") for parameter in module.parameters(recurse=False)):
                stack.enter_context(module.register_forward_hook(Hook(self._computed(name)), prepend=True))

    def local(self, site: Hashable, tensor: Tensor, modules: Sequence[str]) -> Tensor:
        """Take in a response, and return what this rank has of it.

        Args:
            site: The site of the response.
            tensor: The response.
            modules: The names of the modules that may have computed it, the last one first.

        Raises:
            UsageError: If the response is a sum over ranks that has not been taken yet.
        """
        if hasattr(tensor, "placements"):
            self._meet(tensor)
            if any(placement.is_partial() for placement in tensor.placements):
                raise UsageError(f"{modules[-1]}: its response is a sum over ranks that is not taken: choose others")
            whole, tensor = tuple(tensor.shape), tensor.to_local()  # type: ignore[attr-defined]
        elif (found := next((self._shapes[name] for name in modules if name in self._shapes), None)) is not None:
            whole = found
        else:
            return tensor
        self.layout.parts[site] = self.layout.parts.get(site, False) or tuple(tensor.shape) != whole
        return tensor

    def _computed(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            for _, tensor in measurable(output)[:1]:
                if hasattr(tensor, "placements"):
                    self._meet(tensor)
                    self._shapes[name] = tuple(tensor.shape)

        return hook

    def _meet(self, tensor: Any) -> None:
        mesh = tensor.device_mesh
        if mesh.ndim > 1:
            raise UsageError("layers are split over a mesh of several dimensions, which results do not merge")
        self.layout.peers = tuple(int(rank) for rank in mesh.mesh.flatten())


def replicas(layouts: Sequence[Layout], ranks: Ranks) -> list[list[int]]:
    """Return the places of the ranks, grouped by those that share one model and its examples.

    Raises:
        UsageError: If some of these are not among the ranks.
    """
    numbers = ranks.numbers
    if ranks.local:
        return [[0]]
    groups: dict[tuple[int, ...], list[int]] = {}
    for place, layout in enumerate(layouts):
        groups.setdefault(layout.peers or (numbers[place],), []).append(place)
    if any(len(group) != len(peers) for peers, group in groups.items()):
        raise UsageError(
            "tensor parallelism gives ranks parts of a layer, and not all of them are in the process group of this "
            "probe: give one that has them, or take one rank's own numbers with local=True"
        )
    return list(groups.values())


def one_of_each(found: Sequence[T], layouts: Sequence[Layout], ranks: Ranks) -> list[T]:
    """Return what the first rank of each replica has found, where all of it have the same."""
    return [found[group[0]] for group in replicas(layouts, ranks)]


def joined_parts_of(
    site: S,
    found: Sequence[Mapping[S, T]],
    layouts: Sequence[Layout],
    join: Callable[[T, T], T],
    same: Callable[[T, T], bool],
) -> T:
    """Return what the ranks of one replica have found of a site together.

    Args:
        site: The site.
        found: What each of them has found, by site.
        layouts: How each of them takes part.
        join: Joins what was found of two parts of the responses.
        same: Whether two findings are of the same responses.

    Raises:
        GradlabError: If it is not known whether they have parts, and they differ.
    """
    there = [(each[site], layout.parts.get(site)) for each, layout in zip(found, layouts, strict=True) if site in each]
    first = there[0][0]
    if any(part for _, part in there):
        for other, _ in there[1:]:
            first = join(first, other)
    elif not all(same(first, other) for other, _ in there[1:]):
        raise GradlabError(
            f"{getattr(site, 'layer', site)}: ranks that share the model have different responses, and it is not known "
            "of which parts: make the layer parallel, choose others by layers=, or take one rank's with local=True"
        )
    return first
