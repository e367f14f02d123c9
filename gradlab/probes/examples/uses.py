"""Detection of the uses of parameters in a forward pass, by any function and in any module."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from gradlab.errors import GradlabError
from gradlab.probes.backward_passes import accumulation_node
from gradlab.probes.examples.rule import Match
from gradlab.probes.examples.rules import RULES
from gradlab.probes.functions import open_attention, tensors_in

_LOOKUPS = (F.embedding, F.embedding_bag)

_SPREADS = (
    torch.Tensor.expand,
    torch.Tensor.expand_as,
    torch.Tensor.repeat,
    torch.broadcast_to,
    torch.Tensor.broadcast_to,
    F.embedding,
)
"""Functions that give every example its own copy of a shared value."""


@dataclass
class Operand:
    """A parameter, or a tensor computed from parameters only, as an argument of one call.

    Attributes:
        tensor: The parameter, or the computed tensor.
        sources: The numbers of the parameters it was computed from.
        stand_in: The tensor passed to the function in its place, to distinguish this use from others; None if the
            rule for the function needs none.
    """

    tensor: Tensor
    sources: tuple[int, ...]
    stand_in: Tensor | None = None


@dataclass
class Use:
    """One call of a function that combines parameters with examples.

    Attributes:
        function: The name of the function.
        operands: The parameters, and tensors computed from them.
        match: The match of the rule for the function; None if there is no rule.
        follows: Whether other arguments depend on the examples.
        before: The nodes of the other arguments, at which the graph continues.
        inputs: The other tensors, with their versions.
        outputs: The outputs, until the use has been processed; then empty.
        several: Whether there were several outputs.
        passed_on: The part of an output's gradient that came from other outputs computed from it.
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
        """The numbers of all parameters in the use."""
        return tuple(dict.fromkeys(number for operand in self.operands for number in operand.sources))


class UseFinder(TorchFunctionMode):
    """Intercepts every function of torch that receives a parameter, and reports those that also receive examples.

    Tensors computed from parameters and constants only (a transposed or standardized weight, the embedding of
    positions) are followed until they are combined with examples.

    Args:
        numbers: The numbers of the parameters to follow.
        found: A function called with each use.
    """

    def __init__(self, numbers: Mapping[nn.Parameter, int], found: Callable[[Use], None]) -> None:
        super().__init__()
        self._parameters: dict[int, tuple[Tensor, tuple[int, ...]]] = {
            id(parameter): (parameter, (number,)) for parameter, number in numbers.items()
        }
        self._found = found
        # The parameters, and tensors computed from them in this pass.
        self._known = dict(self._parameters)
        self._inputs: dict[int, Tensor] = {}
        self._examples = 0

    def follow(self, leaf: Tensor, number: int) -> None:
        """Follow another tensor as the parameter with this number."""
        self._parameters[id(leaf)] = self._known[id(leaf)] = leaf, (number,)

    def start(self, examples: int, inputs: Iterable[Tensor]) -> None:
        """Begin a forward pass.

        Args:
            examples: The number B of examples.
            inputs: The input tensors of the model.
        """
        self._examples = examples
        self._inputs = {id(tensor): tensor for tensor in inputs}

    def stop(self) -> None:
        """End a forward pass, and release its tensors."""
        self._known = dict(self._parameters)
        self._inputs.clear()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, and report it if it is a use of parameters."""
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
            # A backward pass receives parameters only to compute their gradients.
            return func(*args, **kwargs)
        operands = [known for tensor in tensors if (known := self._operand(tensor)) is not None]
        if not operands or not torch.is_grad_enabled():
            output = func(*args, **kwargs)
            if self._inputs:
                self._follow(tensors, output)
            return output
        return self._call(func, args, kwargs, tensors, operands)

    def _may_use(self, values: Iterable[Any]) -> bool:
        """Return whether values include a parameter or a sequence that may; most calls are dismissed here."""
        known = self._known
        for value in values:  # noqa: SIM110 - a generator would take as long again
            if id(value) in known or value.__class__ is list or value.__class__ is tuple:
                return True
        return False

    def _operand(self, tensor: Tensor) -> Operand | None:
        """Return the operand for a parameter, or for a tensor computed from parameters; None for any other tensor."""
        known = self._known.get(id(tensor))
        return Operand(*known) if known is not None and known[0] is tensor and tensor.requires_grad else None

    def _follow(self, tensors: Sequence[Tensor], output: Any) -> None:
        """Note that tensors computed from the model's inputs depend on the examples as well."""
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
            # The tensor has changed; its further uses are found in the graph.
            if id(tensors[0]) not in self._parameters:
                del self._known[id(tensors[0])]
            return func(*args, **kwargs)
        if self._examples > 1 and func in _LOOKUPS and kwargs.get("scale_grad_by_freq", *args[5:6]):
            raise GradlabError(
                "an embedding divides its gradient by how often the batch holds an index (scale_grad_by_freq), which "
                "couples the examples, so that none has a gradient of its own: leave that option out"
            )
        rule = RULES.get(func)
        match = rule(args, kwargs, known) if rule is not None else None
        if follows and match is None:
            for operand in operands:
                operand.stand_in = operand.tensor.view_as(operand.tensor)
            stand_ins = {id(operand.tensor): operand.stand_in for operand in operands}
            args = tuple(_replaced(args, stand_ins))
            kwargs = dict(zip(kwargs, _replaced(kwargs.values(), stand_ins), strict=True))
        before = [tensor.grad_fn or accumulation_node(tensor) for tensor in others if tensor.requires_grad]
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
        """Return whether a function with a rule turns a value shared by all examples into separate ones."""
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
