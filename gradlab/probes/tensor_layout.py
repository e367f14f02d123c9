"""Which ranks share the layers of a tensor-parallel model, and whether each has all of a response or a part."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from gradlab.errors import GradlabError, UsageError
from gradlab.probes.hooks import Hook
from gradlab.probes.outputs import measurable
from gradlab.probes.ranks import Ranks
from gradlab.probes.split_signals import Split, SplitSignals, split_of

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")


@dataclass
class Layout:
    """How one rank takes part in tensor parallelism, as it travels between ranks.

    Attributes:
        peers: The numbers of the ranks that share the layers of a model, with this one; empty without any.
        parts: What the ranks have apart of a site's responses; only of sites of which it is known.
    """

    peers: tuple[int, ...] = ()
    parts: dict[Any, Split] = field(default_factory=dict)


class LayoutWatch:
    """Sees the whole shape of the outputs of layers that `parallelize_module` has split.

    Such a layer computes a DTensor, which knows the shape over all ranks. Only the hooks of its parallel style then
    make it this rank's tensor, which the model goes on with and probes measure.

    Args:
        model: The model that is measured.

    Attributes:
        layout: What is known so far.
        signals: The outputs of these layers that are parts, in the pass under way.
        modules: The names of the modules with parameters that are DTensors, once hooks are registered.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layout = Layout()
        self.signals = SplitSignals()
        self.modules: list[str] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def attach(self, stack: ExitStack) -> None:
        """Register hooks on the layers with parameters that are DTensors, their removal on the stack."""
        self.modules = [name for name, module in self.model.named_modules() if _is_split(module)]
        for name in self.modules:
            module = self.model.get_submodule(name)
            stack.enter_context(module.register_forward_hook(Hook(self._computed(name)), prepend=True))
            stack.enter_context(module.register_forward_hook(Hook(self._handed_on(name))))

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
            split = split_of(tuple(tensor.shape), whole, -1)
        elif (name := next((name for name in modules if name in self._shapes), None)) is not None:
            split = self.split(name, tensor)
        else:
            return tensor
        self.layout.parts[site] = self.layout.parts.get(site, "") or split
        return tensor

    def split(self, name: str, tensor: Tensor) -> Split:
        """Return what the ranks have apart of the output of a module, of which this rank has a tensor."""
        module = self.model.get_submodule(name)
        channel = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1
        return split_of(tuple(tensor.shape), self._shapes.get(name, tuple(tensor.shape)), channel)

    def splits(self, modules: Sequence[str]) -> bool:
        """Return whether one of some modules has computed a tensor that is split over ranks."""
        return any(name in self._shapes for name in modules)

    def _computed(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            for _, tensor in measurable(output)[:1]:
                if hasattr(tensor, "placements"):
                    self._meet(tensor)
                    self._shapes[name] = tuple(tensor.shape)

        return hook

    def _handed_on(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            for _, tensor in measurable(output)[:1]:
                self.signals.put(tensor, self.split(name, tensor))

        return hook

    def _meet(self, tensor: Any) -> None:
        mesh = tensor.device_mesh
        if mesh.ndim > 1:
            raise UsageError("layers are split over a mesh of several dimensions, which results do not merge")
        self.layout.peers = tuple(int(rank) for rank in mesh.mesh.flatten())


def refuse_gradient_of_parts(layer: str, tensor: Tensor) -> None:
    """Raise an error for a DTensor, of whose gradient a rank may have one of several summands.

    Raises:
        UsageError: That says what to do.
    """
    if hasattr(tensor, "placements"):
        raise UsageError(
            f"{layer}: its response is a DTensor, whose gradient may be a sum over ranks that is not taken: give its "
            "parallel style use_local_output=True, or choose others by layers="
        )


def _is_split(module: nn.Module) -> bool:
    return any(hasattr(parameter, "placements") for parameter in module.parameters(recurse=False))


def site_split(site: Hashable, layouts: Sequence[Layout]) -> Split:
    """Return what some ranks have apart of a site's responses, as any of them has seen."""
    return next((split for layout in layouts if (split := layout.parts.get(site, ""))), "")


def replicas(layouts: Sequence[Layout], ranks: Ranks) -> list[list[int]]:
    """Return the places of the ranks, grouped by those that share one model and its examples, in their order there.

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
    return [sorted(group, key=[*map(numbers.index, peers)].index) for peers, group in groups.items()]


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
            f"{getattr(site, 'layer', site) or 'the model'}: ranks that share the model have different values, and it "
            "is not known of which parts: make the layer parallel, leave it out, or take one rank's with local=True"
        )
    return first
