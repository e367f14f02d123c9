"""What the backward pass of a forward pass looks like, tried out before it is taken apart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

# What torch.autograd.grad imports when it is first given gradients: not in the middle of a user's backward pass.
import torch.fx.experimental.symbolic_shapes
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradlab.errors import GradlabError
from gradlab.probes.examples.backward import LeftOver
from gradlab.probes.examples.layout import Layout, example_factors, find_layout, is_pure, part_norms
from gradlab.probes.examples.uses import Use

Place = tuple[int, int]
"""The number of a use in its forward pass, and of its output."""


FLOOR = 2.0**20
"""Times the smallest normal number: less has lost digits on its way, and tells nothing."""


def tolerance_of(dtype: torch.dtype) -> float:
    """The relative error that rounding may make of a gradient that is computed in one way and in another."""
    return {torch.float64: 1e-8, torch.float32: 1e-3}.get(dtype, 0.05)


@dataclass
class Trial:
    """Two backward passes down to every use of a parameter: one as it is, one with its examples scaled.

    No gradient of a parameter comes of them.

    Attributes:
        examples: B.
        name: What to call the parameters of a use.
        found: Where the examples lie in what each use returned.
        slow: The parameters of uses where they do not lie in order.
        certain: Whether no gradient was 0, which would tell nothing.
    """

    examples: int
    name: Callable[[Use], str]
    found: dict[Place, Layout | None] = field(default_factory=dict)
    slow: set[int] = field(default_factory=set)
    certain: bool = True

    def __post_init__(self) -> None:
        self._plain: dict[Place, tuple[Tensor, Tensor]] = {}
        self._factors: Tensor | None = None

    def run(self, edge: GradientEdge, gradient: Tensor, rest: LeftOver) -> None:
        """Try out the backward pass from the output of a model.

        Args:
            edge: The output.
            gradient: Of it, shape (B, …).
            rest: Where the pass has to go down to.
        """
        if not rest.ends:
            return
        self._pass(edge, gradient, rest)
        self._factors = example_factors(self.examples).to(gradient.device)
        factors = self._factors.to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 1))
        self._pass(edge, gradient * factors, rest)

    def record(self, place: Place, use: Use, gradient: Tensor) -> None:
        """Take in the gradient at a use, in either of the passes."""
        if self._factors is None:
            self._plain[place] = part_norms(gradient)
            return
        if place not in self._plain:
            return
        plain, scaled = self._plain.pop(place), part_norms(gradient)
        factors = self._factors.to(scaled[0].device)
        tolerance = max(1e-9, 1e-2 * tolerance_of(gradient.dtype))
        floor = FLOOR * torch.finfo(gradient.dtype).tiny
        self.certain &= bool((plain[0] > floor).any()) and bool(plain[0].isfinite().all())
        layout = find_layout(gradient.shape, plain[0], scaled[0], factors, tolerance, floor)
        if layout is not None and serves(use, gradient, layout):
            self.found[place] = layout
            return
        if layout is None and use.follows and not is_pure(plain, scaled, factors, tolerance, floor):
            raise GradlabError(
                f"{self.name(use)}: what it gives one example depends on others (by statistics of the batch, attention "
                "or a loss across examples), or a hook changes gradients other than in proportion, so that no example "
                "has a gradient of its own; model.eval() stops batch statistics"
            )
        self.found[place] = None
        self.slow.update(use.sources)

    def _pass(self, edge: GradientEdge, gradient: Tensor, rest: LeftOver) -> None:
        found = torch.autograd.grad([edge], rest.ends, [gradient], retain_graph=True, allow_unused=True)
        # The last uses are not run, so that their hooks are not called.
        for (_, (place, taken)), value in zip(rest.first, found, strict=False):
            if value is not None and taken:
                self.record(place, taken[0], value)


def serves(use: Use, gradient: Tensor, layout: Layout) -> bool:
    """Whether a use can be taken apart: any that has stand-ins, and by a rule where it gives every operand's part."""
    if use.match is None:
        return True
    found = use.match.make(use.match.given, gradient, layout)
    given = use.match.given
    wanted = {id(operand.tensor) for operand in use.operands}
    return found is not None and wanted <= {id(given[name]) for name in found if name in given}


def whole(shape: torch.Size) -> Layout:
    """The layout of what belongs to a single example."""
    return Layout(0, 1, shape[0] if shape else 1)
