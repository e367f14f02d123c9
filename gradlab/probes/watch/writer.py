"""Where records go: into the log of the run, and to sinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from gradlab.probes.selection import find_blocks
from gradlab.probes.watch.record_log import Place, RecordLog
from gradlab.probes.watch.shares import Value
from gradlab.sinks import AnySink, sink_of


class RecordWriter:
    """Gives layers their places in the order of execution, and hands rows on.

    Args:
        model: Whose layers they are.
        sinks: Who gets rows, besides the log.

    Attributes:
        log: All that was written.
    """

    def __init__(self, model: nn.Module, sinks: Iterable[AnySink]) -> None:
        self.log = RecordLog()
        given = list(sinks)
        self._sinks = [sink_of(sink) for sink in given]
        self._own = [sink for sink, named in zip(self._sinks, given, strict=True) if isinstance(named, str | Path)]
        self._blocks = sorted(find_blocks(model), key=len, reverse=True)
        self._indices: dict[str, int] = {}
        self._places: dict[tuple[str, str], tuple[Place, int]] = {}

    def knows(self, layers: Iterable[str]) -> bool:
        """Whether all of some layers have a place."""
        return all(layer in self._indices for layer in layers)

    def place(self, layers: Iterable[str]) -> None:
        """Give layers that have none the next places, in this order."""
        for layer in layers:
            self._indices.setdefault(layer, len(self._indices) + 1)

    def write(self, step: int, values: Iterable[Value]) -> None:
        """Write what a step has shown; the whole model's place is 0."""
        names: list[tuple[str, str]] = []
        numbers: list[float] = []
        for layer, statistic, value in values:
            names.append((layer, statistic))
            numbers.append(value)
        for name in names:
            if name not in self._places:
                place = Place(name[0], self._indices.get(name[0], 0), self._block(name[0]), name[1])
                self._places[name] = place, self.log.number(place)
        self.log.append(step, [self._places[name][1] for name in names], numbers)
        if self._sinks:
            rows = [
                {"step": step, **vars(self._places[name][0]), "value": value}
                for name, value in zip(names, numbers, strict=True)
            ]
            for sink in self._sinks:
                sink.write(rows)

    def close(self) -> None:
        """Close the files that were opened for this run."""
        for sink in self._own:
            getattr(sink, "close", lambda: None)()

    def _block(self, layer: str) -> str:
        """The name of the block that a layer is part of; empty where there is none."""
        return next((block for block in self._blocks if f"{layer}.".startswith(f"{block}.")), "")


def in_order(seen: Iterable[str], owners: Mapping[str, str]) -> list[str]:
    """Layers in the order of execution, with those weights that were not seen to be used behind their modules.

    Of a module that has run no weight of its own nothing says when the others are used, such as embeddings of
    positions: they come where the module begins, before its parts. Those of a module that has not run at all come
    behind what is registered before them.

    Args:
        seen: Names in the order in which they were used.
        owners: The module of every row of weights, in the order of registration.
    """
    order = [*seen]
    before = ""
    for name, module in owners.items():
        if name not in order:
            own = [place for place, other in enumerate(order) if other == module or owners.get(other) == module]
            parts = [place for place, other in enumerate(order) if not module or other.startswith(f"{module}.")]
            after = order.index(before) + 1 if before else 0
            order.insert(own[-1] + 1 if own else parts[0] if parts else after, name)
        before = name
    return order
