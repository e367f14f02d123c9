"""Where parameters come into a forward pass, whatever function takes them and whichever module calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.overrides import TorchFunctionMode

from gradlab.probes.examples.rules import RULES, Match
from gradlab.probes.functions import open_attention, tensors_in

_SPREADS = (
    torch.Tensor.expand,
    torch.Tensor.expand_as,
    torch.Tensor.repeat,
    torch.broadcast_to,
    torch.Tensor.broadcast_to,
    F.embedding,
)
"""Functions that give every example its own copy of what all have in common."""


@dataclass
class Operand:
    """A parameter, or what was computed from parameters alone, as one call of a function took it.

    Attributes:
        tensor: The parameter, or what was computed.
        sources: The numbers of the parameters in it.
        stand_in: What the function was given in its place, so that this use is told from others; None where the
            rule for the function needs none.
    """

    tensor: Tensor
    sources: tuple[int, ...]
    stand_in: Tensor | None = None


@dataclass
class Use:
    """One call of a function that brings parameters together with examples.

    Attributes:
        function: Its name.
        operands: The parameters, and what was computed from them.
        match: What the rule for the function makes of its arguments; None where there is no rule.
        follows: Whether other arguments depend on the examples.
        before: Where the graph goes on beyond the parameters.
        inputs: The other tensors, with their versions.
        outputs: What came of it, until the use is taken in; then nothing.
        several: Whether there were several outputs.
        passed_on: What the gradient of one output gave to others that it was computed from.
    """

    function: str
    operands: list[Operand]
    match: Match | None
    follows: bool
    before: list[Node]
    inputs: list[tuple[Tensor, int]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    several: bool = False
    passed_on: dict[int, Tensor] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[int, ...]:
        """The numbers of all parameters in it."""
        return tuple(dict.fromkeys(number for operand in self.operands for number in operand.sources))


class UseFinder(TorchFunctionMode):
    """Sees every function of torch that is given a parameter, and calls back where examples come in.

    What is computed from parameters and constants alone (a transposed or a standardized weight, the embedding of
    positions) is followed until it meets the examples.

    Args:
        numbers: The number of each parameter that counts.
        found: Called with each use; it is not called again for what it returns.
    """

    def __init__(self, numbers: Mapping[nn.Parameter, int], found: Callable[[Use], None]) -> None:
        super().__init__()
        self._parameters: dict[int, tuple[Tensor, tuple[int, ...]]] = {
            id(parameter): (parameter, (number,)) for parameter, number in numbers.items()
        }
        self._found = found
        # With what was computed of them in this pass.
        self._known = dict(self._parameters)
        self._inputs: dict[int, Tensor] = {}
        self._examples = 0

    def start(self, examples: int, inputs: Iterable[Tensor]) -> None:
        """Begin a forward pass.

        Args:
            examples: B.
            inputs: What the model was given.
        """
        self._examples = examples
        self._inputs = {id(tensor): tensor for tensor in inputs}

    def stop(self) -> None:
        """End a forward pass: nothing of it is kept."""
        self._known = dict(self._parameters)
        self._inputs.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call any function of torch."""
        kwargs = kwargs or {}
        if not self._may_use(args) and not (kwargs and self._may_use(kwargs.values())):
            output = func(*args, **kwargs)
            if isinstance(output, Tensor) and not output.requires_grad and self._inputs:
                self._follow([*tensors_in((*args, *kwargs.values()))], output)
            return output
        if func is F.multi_head_attention_forward:
            with self:
                return open_attention(*args, **kwargs)
        tensors = [*tensors_in((*args, *kwargs.values()))]
        if str(getattr(func, "__module__", None)).startswith("torch.autograd"):
            # A backward pass takes parameters to give their gradients, and is no use of them.
            return func(*args, **kwargs)
        operands = [known for tensor in tensors if (known := self._operand(tensor)) is not None]
        if not operands or not torch.is_grad_enabled():
            output = func(*args, **kwargs)
            if self._inputs:
                self._follow(tensors, output)
            return output
        return self._call(func, args, kwargs, tensors, operands)

    def _may_use(self, values: Iterable[Any]) -> bool:
        """Whether a parameter, or what may hold one, is among values; most calls of functions end here."""
        known = self._known
        for value in values:  # noqa: SIM110 - a generator would take as long again
            if id(value) in known or value.__class__ is list or value.__class__ is tuple:
                return True
        return False

    def _operand(self, tensor: Tensor) -> Operand | None:
        """A tensor as a parameter or what was computed of some, if it is one."""
        known = self._known.get(id(tensor))
        return Operand(*known) if known is not None and known[0] is tensor and tensor.requires_grad else None

    def _follow(self, tensors: Sequence[Tensor], output: Any) -> None:
        """What is computed of the model's inputs alone depends on the examples, too."""
        if any(id(tensor) in self._inputs for tensor in tensors):
            self._inputs.update((id(result), result) for result in tensors_in((output,)) if not result.requires_grad)

    def _call(
        self,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        tensors: Sequence[Tensor],
        operands: list[Operand],
    ) -> Any:
        known = {id(operand.tensor) for operand in operands}
        others = [tensor for tensor in tensors if id(tensor) not in known]
        follows = any(tensor.requires_grad or id(tensor) in self._inputs for tensor in others)
        name = getattr(func, "__name__", str(func))
        if id(tensors[0]) in known and (name in ("__set__", "__setitem__") or _in_place(name)):
            # It is not what it was: what becomes of it is found in the graph.
            if id(tensors[0]) not in self._parameters:
                del self._known[id(tensors[0])]
            return func(*args, **kwargs)
        rule = RULES.get(func)
        match = rule(args, kwargs, known) if rule is not None else None
        if follows and match is None:
            for operand in operands:
                operand.stand_in = operand.tensor.view_as(operand.tensor)
            stand_ins = {id(operand.tensor): operand.stand_in for operand in operands}
            args = tuple(_replaced(args, stand_ins))
            kwargs = dict(zip(kwargs, _replaced(kwargs.values(), stand_ins), strict=True))
        before = [tensor.grad_fn or get_gradient_edge(tensor).node for tensor in others if tensor.requires_grad]
        output = func(*args, **kwargs)
        outputs = [result for result in tensors_in((output,)) if result.grad_fn is not None]
        if outputs and (follows or self._spreads(func, match, others, outputs)):
            versions = [(tensor, tensor._version) for tensor in others if not tensor.is_inference()]
            self._found(Use(name, operands, match, follows, before, versions, outputs))
        elif outputs:
            sources = tuple(dict.fromkeys(number for operand in operands for number in operand.sources))
            self._known.update((id(result), (result, sources)) for result in outputs)
        return output

    def _spreads(
        self, func: Callable[..., Any], match: Match | None, others: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> bool:
        """Whether what all examples have in common becomes something of each example's own, with a rule for it."""
        examples = self._examples
        if match is None or examples < 2 or outputs[0].ndim < 2 or len(outputs[0]) != examples:
            return False
        elementwise = "other" in match.weights
        return func in _SPREADS or (elementwise and any(tensor.ndim and len(tensor) == examples for tensor in others))


def _in_place(name: str) -> bool:
    return (name.endswith("_") and not name.endswith("__")) or (name.startswith("__i") and name.endswith("__"))


def _replaced(values: Iterable[Any], stand_ins: Mapping[int, Tensor | None]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
            inner = [stand_ins.get(id(part), part) for part in value]
            yield inner if isinstance(value, list) else tuple(inner)
        else:
            yield stand_ins.get(id(value), value)
