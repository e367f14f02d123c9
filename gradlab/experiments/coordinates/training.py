"""A few training steps on one batch, and the size of every response and of its change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from gradlab.errors import GradlabError
from gradlab.experiments.coordinates.places import OUTPUT
from gradlab.experiments.subject import output_of
from gradlab.facts import name_of
from gradlab.probes.hooks import Hook
from gradlab.probes.outputs import measurable

Sizes = dict[str, dict[str, float]]
"""Root mean squares of the quantities of each place, in order of execution."""

SizesThere = dict[str, dict[str, Tensor]]
"""The same as they are on the device."""


class Coordinates:
    """Measures the responses of some modules, and their distances from those of the first pass.

    The first call of a module is measured if there are several, and the first of several outputs.

    Args:
        model: The network.
        places: The places of the modules, by their names.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, str]) -> None:
        self.model, self.places = model, places
        self._elements = {id(child) for row in model.modules() if isinstance(row, nn.ModuleList) for child in row}
        self._weights = {name: _own_weights(model.get_submodule(name)) for name in places}
        self._before: dict[str, Tensor] = {}
        self._now: SizesThere = {}
        self._looking_back = False
        self._last = 0, 0

    @contextmanager
    def attached(self) -> Iterator[SizesThere]:
        """A context in which a forward pass is measured, and the sizes that it fills in."""
        self._now = {}
        with ExitStack() as stack:
            for name, place in self.places.items():
                hook = Hook(self._hook(place, self._weights[name]))
                module = self.model.get_submodule(name)
                stack.enter_context(module.register_forward_hook(hook, with_kwargs=True))
            yield self._now

    def _hook(self, place: str, weights: dict[str, Tensor]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            found = measurable(output)
            if self._looking_back or not found or place in self._now:
                return
            response = found[0][1].detach()
            memory = response.data_ptr(), response.numel()
            if place == OUTPUT and memory == self._last:
                # The network's output is the response of its last layer.
                return
            self._last = memory
            # The response is copied, since later operations may change it in place.
            before = self._before.setdefault(place, response.clone())
            now = self._now[place] = {"rms": _rms(response), "change": _rms(response - before)}
            given = args[0] if args else None
            if id(module) in self._elements and isinstance(given, Tensor) and given.shape == response.shape:
                now["branch"] = _rms(response - given.detach())
            if weights:
                now["update"] = _rms(response - self._by(module, weights, args, kwargs))

        return hook

    def _by(self, module: nn.Module, weights: dict[str, Tensor], args: Any, kwargs: Any) -> Tensor:
        """The response of a module to the same input with other weights."""
        self._looking_back = True
        try:
            with torch.no_grad():
                return measurable(functional_call(module, weights, args, kwargs))[0][1]
        finally:
            self._looking_back = False


def _own_weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights of a layer, if they are trained and it contains no other layers."""
    own = dict(module.named_parameters(recurse=False))
    trained = any(parameter.requires_grad for parameter in own.values()) and not any(module.children())
    return {name: parameter.detach().clone() for name, parameter in own.items()} if trained else {}


def trained(
    model: nn.Module,
    optimizer: Optimizer,
    batch: tuple[Tensor, Tensor],
    loss: Callable[[Any, Tensor], Tensor],
    places: Mapping[str, str],
    steps: int,
) -> list[Sizes]:
    """Train on one batch, and measure before every step and after the last one.

    Dropout is off, so that two passes differ only by the weights; everything else is in training mode.

    Returns:
        The sizes at steps 0 to `steps`.
    """
    model.train()
    for module in model.modules():
        if "Dropout" in type(module).__name__ or "DropPath" in type(module).__name__:
            module.eval()
    coordinates, found = Coordinates(model, places), []
    for step in range(steps + 1):
        with coordinates.attached() as sizes:
            output = output_of(model, name_of(model), batch[0])
        found.append(sizes)
        if step < steps:
            optimizer.zero_grad()
            _loss(loss, output, batch[1], name_of(model)).backward()
            optimizer.step()
    return _read(found)


def _loss(loss: Callable[[Any, Tensor], Tensor], output: Any, targets: Tensor, label: str) -> Tensor:
    """The loss of a batch.

    Raises:
        GradlabError: If outputs and targets do not fit; the error names the network.
    """
    try:
        return loss(output, targets)
    except Exception as error:  # a user's function may raise any exception
        reason = str(error).split("\n")[0] or type(error).__name__
        raise GradlabError(f"{label} has outputs of which there is no loss with these targets: {reason}") from error


def _read(found: list[SizesThere]) -> list[Sizes]:
    """The sizes of all passes, in one transfer from the device."""
    there = [value for sizes in found for of in sizes.values() for value in of.values()]
    values = iter(torch.stack(there).tolist() if there else [])
    return [{place: {quantity: next(values) for quantity in of} for place, of in sizes.items()} for sizes in found]


def _rms(tensor: Tensor) -> Tensor:
    return tensor.double().square().mean().sqrt()
