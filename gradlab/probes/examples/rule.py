"""What a rule for the gradients of single examples is: a function, the calls that it serves, and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradlab.probes.examples.layout import Layout
from gradlab.stats import ExampleContributions

Contributions = dict[str, ExampleContributions]
"""The contributions of one call to the gradients of its operands, by argument name."""

Make = Callable[[Mapping[str, Any], Tensor, Layout], Contributions | None]
"""A function that computes contributions from a call's arguments, the gradient of its output and the output's layout.

It returns None if the rule does not apply to the layout.
"""


@dataclass
class Match:
    """A call to which a rule applies.

    Attributes:
        given: The arguments by name.
        weights: The names of the arguments that may be parameters.
        make: The function that separates the gradient by examples.
    """

    given: Mapping[str, Any]
    weights: tuple[str, ...]
    make: Make


class Rule:
    """Recognizes the calls of a function to which it applies.

    Args:
        names: The names of the function's arguments, in order.
        weights: The names of those that may be parameters; if any other argument is one, the rule does not apply.
        make: The function that separates the gradient by examples.
        serves: A function that returns whether the rule applies to given arguments.
    """

    def __init__(
        self, names: str, weights: str, make: Make, serves: Callable[[Mapping[str, Any]], bool] = lambda given: True
    ) -> None:
        self.names, self.weights, self.make, self.serves = names.split(), tuple(weights.split()), make, serves

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], known: Container[int]) -> Match | None:
        """Match a call, and return None if the rule does not apply.

        Args:
            args: The positional arguments of the call.
            kwargs: The keyword arguments of the call.
            known: The ids of the parameters.
        """
        given = {**dict(zip(self.names, args, strict=False)), **kwargs}
        for name, value in given.items():
            if name not in self.weights and isinstance(value, Tensor) and id(value) in known:
                return None
        tensors = [given[name] for name in self.weights if isinstance(given.get(name), Tensor)]
        real = all(not tensor.is_complex() for tensor in tensors)
        return Match(given, self.weights, self.make) if real and self.serves(given) else None
