"""The blocks of one forward pass, found by its additions."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gradlab.errors import UsageError
from gradlab.probes.blocks.channels import likely_channel_dim
from gradlab.probes.blocks.graph import Relation, Value
from gradlab.probes.blocks.naming import block_name, common_module
from gradlab.probes.blocks.numbering import Numbering, Place
from gradlab.probes.blocks.operations import Operand, applies, attends, joined, operands
from gradlab.probes.blocks.readings import Addition, Behind, Branch, Found, Reader, Reading
from gradlab.probes.blocks.recorder import Recorder
from gradlab.stats import inner_product


@dataclass
class _Sum:
    """Branches that were added to one another, and that may still be added to a stream.

    Attributes:
        call: The call of the module that added them.
        parts: The branches.
        found: The block for which the sum was taken, with the branch of fewer weights as a projection.
    """

    call: int
    parts: list[Branch]
    found: Found | None


class PassAdditions:
    """Examines every addition of a pass, and has the reader read those that form a block.

    Args:
        recorder: The recorder of the pass.
        reader: The object that reads streams and branches.
        elements: The names of the elements of containers of similar parts.

    Attributes:
        found: The blocks so far.
        pyramids: The names of the modules that add levels of a feature pyramid.
    """

    def __init__(self, recorder: Recorder, reader: Reader, elements: set[str]) -> None:
        self.recorder, self.reader, self.elements = recorder, reader, elements
        self.found: list[Found] = []
        self.pyramids: set[str] = set()
        self._taken: list[Reading] = []
        self._numbering = Numbering()
        # By number: streams after additions, streams that were read, sums of branches, tensors that may be freed,
        # and shapes.
        self._behind: dict[int, Behind] = {}
        self._streams: dict[int, Reading] = {}
        self._sums: dict[int, _Sum] = {}
        self._tensors: dict[int, weakref.ref[Tensor]] = {}
        self._shapes: dict[int, torch.Size] = {}

    def calling(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[[Tensor], None] | None:
        """See `Listener`."""
        pair = operands(func, name, args, kwargs)
        if pair is None:
            return None
        place = self._numbering.next(*self._running[-1])
        first, second = self._number(pair[0], name), self._number(pair[1], name)
        if first is None or second is None:
            return None
        relation = self.recorder.graph.relation(first, second, self._running[-1][1])
        if relation is None or not _keeps_shape(pair, relation.stream):
            return None
        if self._adds_levels(relation):
            self.pyramids.add(self._running[-1][0])
            return None
        with torch._C.DisableTorchFunction(), torch.no_grad():
            if relation.stream is None or relation.projected:
                return self._sum(pair, (first, second), relation, place)
            found = self._found(pair, (first, second), relation, relation.stream)
            self._place(found, place, pair, relation)
        return lambda output: self._added(found, output)

    def made(self, number: int, tensor: Tensor) -> None:
        """See `Listener`: a value computed from a stream within its block may be the block's output."""
        self._tensors[number], self._shapes[number] = weakref.ref(tensor), tensor.shape
        value = self.recorder.graph[number]
        if len(value.parents) != 1 or value.weighted or value.is_part:
            return
        behind = self._behind.get(value.parents[0])
        if behind is not None and tensor.shape == behind.shape and any(c == behind.call for _, c in self._running):
            with torch._C.DisableTorchFunction(), torch.no_grad():
                behind.readings[number] = self._read(tensor, number, tensor, behind=True)
            self._behind[number] = behind

    def leaving(self, output: Tensor) -> None:
        """Called as the running module returns: if it is the block, its return value is the block's output."""
        number = self.recorder.values.number(output)
        behind = self._behind.get(-1 if number is None else number)
        if behind is not None and number is not None and behind.call == self._running[-1][1]:
            behind.hand_on(number)

    def part(self, name: str, output: Tensor) -> Found:
        """The output of a repeated part, as a stream without branches."""
        number = self.recorder.values.number(output)
        with torch._C.DisableTorchFunction(), torch.no_grad():
            reading = self._read(output, -1 if number is None else number, output, behind=True)
        return Found(name, name, Behind(-1, output.shape, {0: reading}, 0))

    def close(self, kept: list[Found]) -> None:
        """End the pass: blocks have handed on the inputs of other blocks, and no other gradients are waited for."""
        for found in kept:
            if found.origin in self._behind:
                self._behind[found.origin].hand_on(found.origin)
        wanted = {id(reading.watch) for found in kept for reading in found.watched()}
        for reading in self._taken:
            if reading.watch is not None and id(reading.watch) not in wanted:
                reading.watch.remove()

    @property
    def _running(self) -> list[tuple[str, int]]:
        return self.recorder.passes.running or [("", -1)]

    def _adds_levels(self, relation: Relation) -> bool:
        """Whether a projection and an enlarged function of one signal are added, as levels of a feature pyramid are.

        The sum is the stream of no other block: what follows a finer level is a finer one, from another signal.
        """
        if relation.stream is None or not relation.projected:
            return False
        enlarged = [any(self.recorder.graph[number].enlarged for number in between) for between in relation.between]
        return enlarged[1 - relation.stream] and not enlarged[relation.stream]

    def _number(self, operand: Operand, name: str) -> int | None:
        """The number of an operand; one that exists only within the addition gets a value of its own."""
        if operand.tensor is not None:
            number = self.recorder.values.number(operand.tensor)
            return number if number is not None and number >= 0 else None
        values = self.recorder.values
        parents = joined(values.number(tensor) for tensor in operand.tensors)
        if not parents:
            return None
        weighted = applies(name, any(map(values.is_weight, operand.tensors)), len(parents))
        value = self.recorder.value_of(parents, weighted=weighted, attends=attends(name, len(parents)))
        return self.recorder.add(value, self.recorder.channel(parents[0]))

    def _found(
        self, pair: tuple[Operand, Operand], numbers: tuple[int, int], relation: Relation, stream: int
    ) -> list[Found]:
        """The block of an addition; if several branches were added to one another before, one block for each."""
        block, name, attending = self._named(relation.between[1 - stream])
        behind = Behind(self._call_of(block), pair[stream].tensors[0].shape)
        of_stream = self._stream(pair[stream], numbers[stream])
        earlier = self._sums.pop(numbers[1 - stream], None)
        if earlier is not None and earlier.call == self._running[-1][1]:
            if earlier.found is not None:
                self.found.remove(earlier.found)
            if all(numbers[stream] in part.products for part in earlier.parts):
                return [
                    Found(
                        block,
                        self._running[-1][0],
                        behind,
                        relation.origin,
                        of_stream,
                        part,
                        part.products[numbers[stream]],
                    )
                    for part in earlier.parts
                ]
        branch = self._branch(pair[1 - stream], numbers[1 - stream], name, attending, behind.shape)
        x, y = (operand.as_added().expand(behind.shape) for operand in (pair[stream], pair[1 - stream]))
        return [Found(block, self._running[-1][0], behind, relation.origin, of_stream, branch, inner_product(x, y))]

    def _place(self, found: list[Found], place: Place, pair: tuple[Operand, Operand], relation: Relation) -> None:
        """Tell blocks by which addition they were found."""
        stream = relation.stream or 0
        shape = pair[stream].tensors[0].shape
        for each in found:
            each.addition = Addition(place, stream, self._shapes.get(relation.origin, shape) != shape)

    def _sum(
        self, pair: tuple[Operand, Operand], numbers: tuple[int, int], relation: Relation, place: Place
    ) -> Callable[[Tensor], None]:
        """Read two functions of one signal: they are branches of one block, or one is a projection of the signal."""
        shape = pair[0].tensors[0].shape
        parts: list[Branch] = []
        for operand, number, between in zip(pair, numbers, relation.between, strict=True):
            earlier = self._sums.get(number)
            if earlier is not None and earlier.call == self._running[-1][1]:
                parts += earlier.parts
                continue
            _, name, attending = self._named(between)
            parts.append(self._branch(operand, number, name, attending, shape))
            parts[-1].products = self._products(operand.as_added(), relation.origin)
        found = []
        if relation.stream is not None and len(parts) == 2:
            stream = relation.stream
            block, *_ = self._named(relation.between[1 - stream])
            product = inner_product(pair[0].as_added(), pair[1].as_added())
            behind = Behind(self._call_of(block), shape)
            found = [
                Found(
                    block,
                    self._running[-1][0],
                    behind,
                    relation.origin,
                    parts[stream].reading,
                    parts[1 - stream],
                    product,
                )
            ]
            self._place(found, place, pair, relation)

        def added(output: Tensor) -> None:
            number = self.recorder.values.number(output)
            assert number is not None
            self._sums[number] = _Sum(self._running[-1][1], parts, found[0] if found else None)
            if found:
                self._added(found, output)

        return added

    def _added(self, found: list[Found], output: Tensor) -> None:
        """Read the sum."""
        number = self.recorder.values.number(output)
        assert number is not None
        behind = found[0].behind
        with torch._C.DisableTorchFunction(), torch.no_grad():
            behind.readings[number] = self._read(output, number, output, behind=True)
        behind.hand_on(number)
        self._behind[number] = behind
        for each in found:
            if each.branch is not None and each.branch.reading.watch is None:
                # An operand that exists only within the addition has the gradient of the sum.
                each.branch.reading.watch = behind.readings[number].watch
        self.found += found

    def _named(self, between: list[int]) -> tuple[str, str, bool]:
        """The name of the block of a branch, the module of the branch, and whether it contains attention.

        Args:
            between: The values of the branch.
        """
        values = [self.recorder.graph[number] for number in between]
        running, call = self._running[-1]
        # Without weights, the module is that of the values that another module has computed.
        places = [v.module for v in values if v.weighted] or [v.module for v in values if v.call != call]
        module = common_module(places)
        block = block_name(running, module, self.elements)
        if not module.startswith(f"{block}." if block else ""):
            module = next((place for place in reversed(places) if place.startswith(f"{block}.")), module)
        return block, module, any(value.attends for value in values)

    def _call_of(self, block: str) -> int:
        """The call of the block if it is running, or else of the module that performs the addition."""
        return next((call for name, call in reversed(self._running) if name == block), self._running[-1][1])

    def _branch(self, operand: Operand, number: int, module: str, attending: bool, shape: torch.Size) -> Branch:
        value = operand.as_added().expand(shape)
        reading = self._read(value, number, operand.tensor)
        return Branch(module, attending, reading)

    def _stream(self, operand: Operand, number: int) -> Reading:
        """The reading of a stream; an earlier one is used again if the tensor is the same."""
        behind = self._behind.get(number)
        if behind is not None:
            return behind.readings[number]
        if number not in self._streams:
            self._streams[number] = self._read(operand.as_added(), number, None)
        return self._streams[number]

    def _read(self, value: Tensor, number: int, watched: Tensor | None, behind: bool = False) -> Reading:
        """Have the reader read a value, and the gradient of a tensor."""
        channel = self.recorder.channel(number) if number >= 0 else None
        channel = likely_channel_dim(value) if channel is None else channel
        if hasattr(value, "placements"):
            raise UsageError(
                f"{self._running[-1][0] or 'the model'} adds DTensors, of which no rank has all: give the parallel "
                "style of the layers before use_local_output=True"
            )
        reading = self.reader.read(value, channel, watched, behind)
        reading.split = self.recorder.split(number) if number >= 0 else ""
        self._taken.append(reading)
        return reading

    def _products(self, branch: Tensor, origin: int) -> dict[int, Tensor]:
        """The inner products of a branch with values to which it may still be added: its input and the ancestors."""
        products: dict[int, Tensor] = {}
        number, graph = origin, self.recorder.graph
        while True:
            tensor = self._tensors[number]() if number in self._tensors else None
            if tensor is not None and tensor.shape == branch.shape and self.recorder.values.is_same(tensor, number):
                products[number] = inner_product(tensor, branch)
            value: Value = graph[number]
            if len(value.parents) != 1 or value.weighted or len(products) > 2:
                return products
            number = value.parents[0]


def _keeps_shape(pair: tuple[Operand, Operand], stream: int | None) -> bool:
    """Whether an addition preserves the shape of the stream; branches that are added to one another have one shape."""
    first, second = (operand.tensors[0].shape for operand in pair)
    if stream is None:
        return first == second
    # An operand that exists only within the function has the stream's shape.
    joint = torch.broadcast_shapes(first, second) if pair[1 - stream].tensor is not None else None
    return joint is None or bool((first, second)[stream] == joint)
