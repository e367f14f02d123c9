"""Where records go: into the log of the run, and to sinks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import nn

from gradlab.probes.selection import find_blocks
from gradlab.probes.watch.piece import Value
from gradlab.probes.watch.record_log import Place, RecordLog
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

    def place(self, layers: Iterable[str]) -> None:
        """Give layers that have none the next places, in this order."""
        for layer in layers:
            self._indices.setdefault(layer, len(self._indices) + 1)

    def write(self, step: int, values: Iterable[Value]) -> None:
        """Write what a step has shown; the whole model's place is 0."""
        rows = [
            (Place(layer, self._indices.get(layer, 0), self._block(layer), statistic), value)
            for layer, statistic, value in values
        ]
        self.log.append(step, rows)
        if self._sinks:
            records = [{"step": step, **vars(place), "value": value} for place, value in rows]
            for sink in self._sinks:
                sink.write(records)

    def close(self) -> None:
        """Close the files that were opened for this run."""
        for sink in self._own:
            getattr(sink, "close", lambda: None)()

    def _block(self, layer: str) -> str:
        """The name of the block that a layer is part of; empty where there is none."""
        return next((block for block in self._blocks if f"{layer}.".startswith(f"{block}.")), "")


def in_order(seen: Iterable[str], owners: Mapping[str, str]) -> list[str]:
    """Layers in the order of execution, with those weights that were not seen to be used behind their modules.

    Args:
        seen: Names in the order in which they were used.
        owners: The module of every row of weights.
    """
    order = [*seen]
    for name, module in owners.items():
        if name not in order:
            own = [place for place, other in enumerate(order) if other == module or owners.get(other) == module]
            order.insert(own[-1] + 1 if own else len(order), name)
    return order
