"""The proof that a traced graph has its responses where eager passes had them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from gradlab.probes.applications import NORMALIZING
from gradlab.probes.compiled.discovery import Passing, Plan
from gradlab.probes.compiled.entry import CannotCompile
from gradlab.probes.compiled.graph_gradients import check_gradients
from gradlab.probes.compiled.marks import Mark
from gradlab.probes.finder import Site
from gradlab.probes.identity import storage_key
from gradlab.probes.targets import Targets
from gradlab.stats.custom_ops import add_moments, watch_gradient


class Operation(NamedTuple):
    """What stands in a graph at each mark, and at each response once the graph is proved.

    Attributes:
        function: The function of torch.
        x: The position of the response among its arguments.
        row: The position of a row's number, in place of which a traced graph has that of a mark, or its complement.
        copies: Whether what follows has the output of the function in place of the response.
    """

    function: Any
    x: int
    row: int
    copies: bool


MOMENTS = Operation(add_moments, x=2, row=1, copies=False)
GRADIENTS = Operation(watch_gradient, x=0, row=2, copies=True)

_SAME_VALUE = {"detach", torch.detach, Tensor.detach, watch_gradient}

_CHANGING = {"iadd", "isub", "imul", "itruediv", "setitem"}

_ONCE = (nn.Linear, _ConvNd, nn.Embedding)
"""Modules that use their weight once a call."""


class Proof:
    """Holds graphs with marks against a plan, and makes of them graphs that measure responses by their rows.

    A graph has no branches, so that what holds for it holds for every pass that it computes. The tensor that enters a
    normalization is a layer's output if both are the value of one node.

    Args:
        plan: The plan.
        marks: The marks by number.
        targets: What is measured.
        operation: What stands at the marks.
    """

    def __init__(self, plan: Plan, marks: Sequence[Mark], targets: Targets, operation: Operation) -> None:
        self.plan, self.marks, self.targets, self.operation = plan, marks, targets, operation
        self._rows = {passing: row for row, passing in enumerate(plan.passings)}

    def apply(self, module: fx.GraphModule, inputs: Sequence[Any]) -> None:
        """Change a graph to have the operation at each response, with its row, and nowhere else.

        Args:
            module: The graph as traced, in which the operation stands at every mark.
            inputs: Its inputs.

        Raises:
            CannotCompile: If its responses may not be those of the plan.
        """
        calls: Counter[int] = Counter()
        outputs: dict[fx.Node, Site] = {}
        linked: dict[Site, str] = {}
        kept: dict[fx.Node, Passing] = {}
        for node in list(module.graph.nodes):
            if node.target is not self.operation.function:
                continue
            number, source = self._number(node), _source(node.args[self.operation.x])
            calls[number] += 1
            mark, passing = self.marks[number], (number, calls[number])
            if not mark.is_input and self._is_layer(mark.module):
                outputs[source] = Site(mark.module, calls[number])
            elif mark.is_input and source in outputs:
                self._link(outputs.pop(source), source, passing, linked)
            if passing in self._rows:
                kept[node] = passing
        if tuple(sorted(calls.items())) != self.plan.calls:
            raise CannotCompile("its modules are called in another way than in eager code")
        self._check_uses(module.graph, inputs)
        there = {site for site, _ in self.plan.places}
        if {site: norm for site, norm in linked.items() if site in there} != dict(self.plan.norms):
            raise CannotCompile("other layers are normalized than in eager code")
        if any(_is_normalized_by_function(source) for source in outputs):
            raise CannotCompile("functions normalize the outputs of layers")
        if self.operation.copies:
            graphs = {node: passing not in self.plan.without_graph for node, passing in kept.items()}
            check_gradients(module.graph, graphs)
        self._put(module.graph, kept)
        module.graph.lint()
        module.recompile()

    def _number(self, node: fx.Node) -> int:
        """Return the number of the mark at which an operation stands."""
        row = int(node.args[self.operation.row])  # type: ignore[arg-type]
        return ~row if self.operation.copies else row

    def _put(self, graph: fx.Graph, kept: dict[fx.Node, Passing]) -> None:
        """Have the operation where responses are alone, with their rows."""
        for node in graph.find_nodes(op="call_function", target=self.operation.function):
            passing = kept.get(node)
            if passing is None or passing in self.plan.without_graph:
                if self.operation.copies:
                    node.replace_all_uses_with(node.args[self.operation.x])
                graph.erase_node(node)
            else:
                node.update_arg(self.operation.row, self._rows[passing])

    def _is_layer(self, name: str) -> bool:
        target = self.targets.chosen.get(name)
        return target is not None and target.is_layer

    def _link(self, site: Site, source: fx.Node, entered: Passing, linked: dict[Site, str]) -> None:
        if any(_changes_in_place(user, source) for user in _users(source)):
            raise CannotCompile(f"{site.layer}: its output is changed in place")
        mark, places = self.marks[entered[0]], dict(self.plan.places)
        number, call = places.get(site, (0, 0))
        if self.marks[number] == Mark(mark.module, is_input=False) and call != entered[1]:
            raise CannotCompile(f"{site.layer}: it is normalized by another call than in eager code")
        linked[site] = mark.module

    def _check_uses(self, graph: fx.Graph, inputs: Sequence[Any]) -> None:
        """Make sure that layers that use their weight once a call are all that uses it."""
        allowed: Counter[int] = Counter()
        calls = {self.marks[number]: count for number, count in self.plan.calls}
        for name, target in self.targets.chosen.items():
            for part in (part for row in target.rows for part in row.parts):
                once = isinstance(target.module, _ONCE)
                # What other modules do with their weights is theirs.
                allowed[storage_key(part.parameter)] += calls.get(Mark(name, False), 0) if once else len(graph.nodes)
        for node, value in zip(graph.find_nodes(op="placeholder"), inputs, strict=True):
            if isinstance(value, Tensor) and len(node.users) > allowed.get(storage_key(value), len(graph.nodes)):
                raise CannotCompile("a function uses the weight of a layer outside of it")


def _source(node: Any) -> fx.Node:
    """Return the node whose value a tensor is."""
    while node.target in _SAME_VALUE:
        node = node.args[0]
    found: fx.Node = node
    return found


def _users(source: fx.Node) -> Iterator[fx.Node]:
    """Yield what uses the value of a node."""
    for user in source.users:
        if user.target in _SAME_VALUE:
            yield from _users(user)
        else:
            yield user


def _name(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")


def _is_normalized_by_function(source: fx.Node) -> bool:
    return any(_name(user) in NORMALIZING and user.args and _source(user.args[0]) is source for user in _users(source))


def _changes_in_place(user: fx.Node, source: fx.Node) -> bool:
    """Return whether a function changes a value, as one that does so to its first argument."""
    name = _name(user)
    changes = (name.endswith("_") and not name.endswith("__")) or name in _CHANGING
    return (changes or user.kwargs.get("inplace") is True) and bool(user.args) and _source(user.args[0]) is source
