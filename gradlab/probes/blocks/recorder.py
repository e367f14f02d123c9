"""A mode that records the values of a forward pass as a graph, for all torch functions and modules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gradlab.probes.blocks.channels import channel_dim
from gradlab.probes.blocks.graph import Graph, Value
from gradlab.probes.blocks.operations import ENLARGING, SLICES, applies, attends, is_in_place, joined
from gradlab.probes.blocks.values import CONSTANT, DATA, Values
from gradlab.probes.functions import function_name, tensors_in
from gradlab.probes.hooks import in_backward
from gradlab.probes.outputs import refuse_nested
from gradlab.probes.passes import Passes
from gradlab.probes.split_signals import Split, split_of


class Listener(Protocol):
    """The interface that is notified of function calls."""

    def calling(
        self, func: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Callable[[Tensor], None] | None:
        """Called before a function; returns what to do with its output."""

    def made(self, number: int, tensor: Tensor) -> None:
        """Called after a function has computed a value."""


class Recorder(TorchFunctionMode):
    """Numbers every signal of a pass: the values that depend on its inputs by floating-point operations or embeddings.

    Args:
        passes: The passes of the model, with all its modules.

    Attributes:
        unseen: The names of the modules that received a value that no observed function had returned.
    """

    listener: Listener

    def __init__(self, passes: Passes) -> None:
        super().__init__()
        self.passes = passes
        self.unseen: set[str] = set()

    def start(self, listener: Listener, model: nn.Module, inputs: Iterable[Tensor]) -> None:
        """Begin a pass, with a listener, the model whose weights are used, and its input tensors."""
        self.listener = listener
        self.graph, self.values = Graph(), Values(model.parameters(), model.buffers())
        self._channels: list[int | None] = []
        self._splits: list[Split] = []
        for tensor in inputs:
            self._name(tensor, Value() if _is_signal(tensor) else None, None)

    def channel(self, number: int) -> int | None:
        """The channel dimension of a value; None if it is unknown."""
        return self._channels[number]

    def split(self, number: int) -> Split:
        """What ranks have apart of a value."""
        return self._splits[number]

    def mark(self, tensor: Tensor, split: Split) -> None:
        """Tell what ranks have apart of a value that one of its layers' hooks has handed on."""
        number = self.values.number(tensor)
        if number is not None and number >= 0:
            self._splits[number] = split

    def converted(self, before: Tensor, after: Tensor) -> None:
        """Record that a hook has turned one tensor into another, such as the whole of what ranks have parts of."""
        number, known = self.values.number(before), self.values.number(after)
        # What a hook has computed on the way, from tensors that are not known, passes for a constant.
        if number is None or (known is not None and known >= 0):
            return
        if number < 0 or before.shape == after.shape or hasattr(before, "placements") or hasattr(after, "placements"):
            self.values.put(after, number)
            return
        channel = self._channels[number]
        from_end = -1 if channel is None else channel - before.ndim
        whole = after.numel() > before.numel()
        self._name(after, self.value_of((number,)), channel)
        self.mark(after, "" if whole else split_of(tuple(after.shape), tuple(before.shape), from_end))

    def value_of(self, parents: tuple[int, ...], **facts: bool) -> Value:
        """A value computed at the current point of the pass."""
        module, call = self.passes.running[-1] if self.passes.under_way else ("", -1)
        return Value(parents, module, call, **facts)

    def add(self, value: Value, channel: int | None) -> int:
        """Add a value without a tensor and return its number."""
        self._channels.append(channel)
        marks = {split for parent in value.parents if (split := self._splits[parent])}
        self._splits.append("unknown" if len(marks) > 1 else next(iter(marks), ""))
        return self.graph.add(value)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a torch function and record its inputs and outputs."""
        kwargs = dict(kwargs or {})
        if in_backward():
            return func(*args, **kwargs)
        name = function_name(func)
        then = self.listener.calling(func, name, args, kwargs)
        # A tensor that has been written to is a new value.
        given = self._given(args, kwargs) if is_in_place(name) else None
        output = func(*args, **kwargs)
        made = [args[0]] if name == "__setitem__" else [*tensors_in((output,))]
        if made:
            self._note(func, name, args, kwargs, given or self._given(args, kwargs), made)
        if then is not None:
            then(output)
        return output

    def _given(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[Tensor, int | None]]:
        return [(tensor, self.values.number(tensor)) for tensor in tensors_in((*args, *kwargs.values()))]

    def _note(
        self,
        func: Callable[..., Any],
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: Sequence[tuple[Tensor, int | None]],
        made: Sequence[Tensor],
    ) -> None:
        """Record the outputs of a function and the numbers of its inputs."""
        weights = any(self.values.is_weight(tensor) for tensor, _ in given)
        if any(n is None and t.grad_fn is not None and not self.values.is_weight(t) for t, n in given):
            self.unseen.add(self.passes.innermost)
        if all(number in (None, CONSTANT) for _, number in given):
            for tensor in made:
                self.values.put(tensor, CONSTANT)
                if weights:
                    self.values.put_weight(tensor)
            return
        parents = joined(number for _, number in given)
        weighted = applies(name, weights, len(parents))
        attending = attends(name, len(parents))
        facts = {"is_part": name in SLICES, "enlarged": name in ENLARGING}
        value = self.value_of(parents, weighted=weighted, attends=attending, **facts)
        signals = [(tensor, self._channels[number]) for tensor, number in given if number is not None and number >= 0]
        for tensor in made:
            if not _is_signal(tensor) or not (parents or weighted):
                self._name(tensor, None, None)
            elif is_in_place(name) or not any(self.values.is_same(tensor, parent) for parent in parents):
                self._name(tensor, value, channel_dim(func, args, kwargs, signals, tensor))

    def after_module(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Record a module's output that no observed function has returned, as from a custom autograd function."""
        if in_backward() or not self.passes.under_way:
            return
        for tensor in tensors_in((output,)):
            if _is_signal(tensor) and self.values.number(tensor) is None:
                given = [self.values.number(each) for each in tensors_in((*args, *kwargs.values()))]
                if any(number not in (None, CONSTANT) for number in given) and not self.values.is_weight(tensor):
                    weighted = any(parameter.ndim > 1 for parameter in module.parameters())
                    known = self.value_of(joined(given), weighted=weighted)
                    self._name(tensor, known if known.parents or weighted else None, None)

    def _name(self, tensor: Tensor, value: Value | None, channel: int | None) -> None:
        refuse_nested([tensor], "blocks")
        if value is None:
            self.values.put(tensor, DATA)
            return
        number = self.add(value, channel)
        self.values.put(tensor, number)
        self.listener.made(number, tensor)


def _is_signal(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
