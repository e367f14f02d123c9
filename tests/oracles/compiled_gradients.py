"""Norms of gradients of responses by hooks of plain tensors, and trainings of which probes measure the same."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

import gradlab as gl

Norms = dict[tuple[str, int], list[float]]

Loop = Callable[[Any, Any, Callable[[], None]], None]
"""A function of what is called, of the model, and of what is to be called after each step."""


def brute_force(model: nn.Module, read: Mapping[str, str], loop: Loop) -> Norms:
    """Norms of gradients by layer, call and step, in float64.

    Args:
        model: A model that is not compiled, of which a copy is trained.
        read: Where the response of each layer is read: the name of a module.
        loop: The training.
    """
    model = copy.deepcopy(model)
    squares: dict[tuple[str, int], Tensor] = {}
    norms: Norms = {}
    calls: dict[str, int] = {}

    def note(layer: str, output: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        site = layer, calls[layer]

        def arrived(gradient: Tensor) -> None:
            squares[site] = squares.get(site, torch.zeros((), dtype=torch.float64)) + gradient.double().square().sum()

        if output.requires_grad:
            output.register_hook(arrived)

    for layer, name in read.items():
        model.get_submodule(name).register_forward_hook(lambda m, a, output, layer=layer: note(layer, output))
    model.register_forward_pre_hook(lambda *_: calls.clear())

    def step() -> None:
        for site, square in squares.items():
            norms.setdefault(site, []).append(square.sqrt().item())
        squares.clear()

    loop(model, model, step)
    return norms


def measured(called: nn.Module, model: nn.Module, loop: Loop, **options: Any) -> tuple[Norms, gl.ResponseGradients]:
    """What a probe of a compiled model has measured, and the probe."""
    with gl.ResponseGradients(called, **options) as probe:
        loop(called, model, probe.step)
    frame = probe.result().frame
    there = frame[frame["absent"].isna()]
    norms: Norms = {}
    for layer, call, norm in zip(there["layer"], there["call"], there["response_grad_norm"], strict=True):
        norms.setdefault((layer, call), []).append(norm)
    return norms, probe


def trained(batches: list[Tensor]) -> Loop:
    """A training on batches, a step each."""

    def loop(called: Any, model: Any, step: Callable[[], None]) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for x in batches:
            optimizer.zero_grad()
            called(x).square().mean().backward()
            step()
            optimizer.step()

    return loop


def compiled_passes(probe: gl.ResponseGradients) -> int:
    """How many passes ran in compiled code, by what the result says."""
    (note,) = [note for note in probe.result().notes if "compiled code" in note]
    return int(note.split()[0])
