"""How many elements values in a graph have, whose sizes may depend on those of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from gradlab.probes.compiled.entry import CannotCompile


def element_counts(graph: fx.Graph, nodes: Sequence[fx.Node]) -> Callable[[Sequence[Any]], list[int]]:
    """Return a function of a graph's inputs, which tells the number of elements of some of its values.

    It reads sizes alone, so that no device is waited for.

    Args:
        graph: A graph as traced, with torch's tracer's stand-in for each value.
        nodes: The nodes of the values, which are tensors.

    Raises:
        CannotCompile: If sizes do not follow from those of the inputs.
    """
    expressions = [_expression(node.meta["example_value"].numel()) for node in nodes]
    sources = _sources(graph)
    needed = sorted({name for one in expressions for name in getattr(one, "free_symbols", ())}, key=str)
    if any(name not in sources for name in needed):
        raise CannotCompile("sizes of responses depend on the values of tensors")
    known: dict[tuple[int, ...], list[int]] = {}

    def counts(inputs: Sequence[Any]) -> list[int]:
        sizes = tuple(int(sources[name](inputs)) for name in needed)
        if sizes not in known:
            given = dict(zip(needed, sizes, strict=True))
            known[sizes] = [one if isinstance(one, int) else int(one.subs(given)) for one in expressions]
        return known[sizes]

    return counts


def _sources(graph: fx.Graph) -> dict[Any, Callable[[Sequence[Any]], int]]:
    """Return where each symbol is found among the inputs of a graph: a number, or a size of a tensor."""
    found: dict[Any, Callable[[Sequence[Any]], int]] = {}
    for place, node in enumerate(graph.find_nodes(op="placeholder")):
        value = node.meta.get("example_value")
        if isinstance(value, torch.SymInt):
            found[_expression(value)] = lambda inputs, place=place: inputs[place]  # type: ignore[misc]
        elif isinstance(value, Tensor):
            for dim, size in enumerate(value.shape):
                found.setdefault(_expression(size), lambda inputs, at=place, dim=dim: inputs[at].shape[dim])  # type: ignore[misc]
    return found


def _expression(size: Any) -> Any:
    """Return a whole number, or torch's expression of one that is not known while code is compiled."""
    return size.node.expr if isinstance(size, torch.SymInt) else int(size)
