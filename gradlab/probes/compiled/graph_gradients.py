"""The proof that copies of responses in a graph receive the gradients of these responses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, fx

from gradlab.probes.compiled.entry import CannotCompile
from gradlab.probes.identity import storage_key
from gradlab.stats.custom_ops import watch_gradient


def check_gradients(graph: fx.Graph, has_graph: Mapping[fx.Node, bool]) -> None:
    """Make sure that the gradient of each copy is that of the value of which it is one.

    It is, if nothing else uses the value or its memory from then on. Autograd gives zeros to an output that a loss
    leaves out, where it gives nothing to a tensor of eager code, so that there may only be one with a graph.

    Args:
        graph: A graph in which responses are copied by `watch_gradient`.
        has_graph: The copies, and whether eager responses had graphs.

    Raises:
        CannotCompile: If this does not hold.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    in_memory: dict[int, list[fx.Node]] = {}
    for node in places:
        if isinstance(value := _value(node), Tensor):
            in_memory.setdefault(storage_key(value), []).append(node)
    for copy, expected in has_graph.items():
        value = _value(copy.args[0])
        if not isinstance(value, Tensor) or value.requires_grad is not expected:
            raise CannotCompile("other responses have graphs than in eager code")
        if expected:
            source = _copied(copy)
            aliases = [node for node in in_memory[storage_key(_value(source))] if node is not source]
            last = max((places[user] for node in aliases for user in node.users), default=-1)
            if source.op == "placeholder" or last > places[copy] or any(node.op == "placeholder" for node in aliases):
                raise CannotCompile("the memory of a response is used in other ways than by its module's output")
    outputs = {node for node in _nodes(graph.output_node().args) if getattr(_value(node), "requires_grad", False)}
    if len(outputs) > 1:
        raise CannotCompile("several outputs have graphs, of which a loss may leave out some")


def _copied(copy: fx.Node) -> fx.Node:
    """Return the value of which a node is a copy, or a copy of a copy, and which nothing else uses."""
    source: Any = copy
    while source.target is watch_gradient:
        source = source.args[0]
        if len(source.users) != 1:
            raise CannotCompile("a response is also used by other functions than those that follow its module")
    found: fx.Node = source
    return found


def _value(node: Any) -> Any:
    """Return what torch's tracer has instead of the value of a node."""
    return node.meta.get("example_value") if isinstance(node, fx.Node) else None


def _nodes(value: Any) -> Iterable[fx.Node]:
    """Yield the nodes in what a graph returns."""
    if isinstance(value, fx.Node):
        yield value
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _nodes(inner)
