"""Trial backward passes, which determine the structure of a backward pass before it is separated by examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradlab.errors import GradlabError
from gradlab.probes.examples.backward import LeftOver
from gradlab.probes.examples.layout import Layout, example_factors, find_layout, in_range, is_pure, part_norms
from gradlab.probes.examples.uses import Use
from gradlab.probes.recomputation import additional_pass

Place = tuple[int, int]
"""The number of a use in its forward pass, and the number of its output."""


def floor_of(dtype: torch.dtype) -> float:
    """Return the norm of the smallest informative gradient; smaller ones, near subnormal numbers, have lost digits."""
    return (2.0**5 if dtype is torch.float16 else 2.0**20) * torch.finfo(dtype).tiny


def tolerance_of(dtype: torch.dtype) -> float:
    """Return the largest relative difference that rounding may cause between two computations of a gradient."""
    return _TOLERANCES.get(dtype, 0.05)


_TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-3}


@dataclass
class Trial:
    """Two backward passes down to every use of a parameter: an ordinary one, and one with scaled examples.

    They compute no gradient of a parameter, and wait for the device as often however many uses there are.

    Attributes:
        examples: The number B of examples.
        name: A function that names the parameters of a use.
        found: The layout of the examples in the output of each use.
        slow: The numbers of the parameters in uses where the examples are not in order.
        certain: Whether no gradient was 0, which would carry no information.
    """

    examples: int
    name: Callable[[Use], str]
    found: dict[Place, Layout | None] = field(default_factory=dict)
    slow: set[int] = field(default_factory=set)
    certain: bool = True

    def __post_init__(self) -> None:
        self._plain: dict[Place, tuple[Tensor, Tensor]] = {}
        self._met: list[tuple[Place, Use, Tensor]] = []
        self._norms: list[Tensor] = []
        self._factors: Tensor | None = None

    def run(self, edge: GradientEdge, gradient: Tensor, rest: LeftOver) -> None:
        """Make the two backward passes from an output of the model.

        Args:
            edge: The output, as an edge of the graph.
            gradient: The gradient of the output, shape (B, …).
            rest: The ends that the passes have to reach.
        """
        if not rest.ends:
            return
        gradient = in_range(gradient)
        self._pass(edge, gradient, rest)
        self._factors = example_factors(self.examples).to(gradient.device)
        factors = self._factors.to(gradient.dtype).view(-1, *[1] * (gradient.ndim - 1))
        self._pass(edge, gradient * factors, rest)
        self._decide()

    def record(self, place: Place, use: Use, gradient: Tensor) -> None:
        """Process the gradient at a use, in either of the passes."""
        if self._factors is None:
            self._plain[place] = part_norms(gradient)
        elif place in self._plain:
            # Without its values, which would otherwise be kept to the end of the pass.
            like = gradient.new_empty(()).expand(gradient.shape)
            self._met.append((place, use, like))
            self._norms += [*self._plain.pop(place), *part_norms(gradient)]

    def _decide(self) -> None:
        """Find the layouts from the norms at all uses, which are copied from the device together."""
        (met, self._met), (norms, self._norms) = (self._met, []), (self._norms, [])
        if not met:
            return
        flat = torch.cat([norm.flatten().to(norms[0].device) for norm in norms]).cpu()
        values = [part.view(n.shape) for part, n in zip(flat.split([n.numel() for n in norms]), norms, strict=True)]
        pairs = [*zip(values[::2], values[1::2], strict=True)]
        # A gradient in float32 may have come through layers that autocast runs in float16.
        dtypes = {like.dtype for *_, like in met}
        tolerance = max(1e-9, 1e-2 * max(map(tolerance_of, dtypes)))
        floor = max(map(floor_of, dtypes))
        for (place, use, like), plain, scaled in zip(met, pairs[::2], pairs[1::2], strict=True):
            self._find(place, use, like, (plain, scaled), tolerance, floor)

    def _find(
        self,
        place: Place,
        use: Use,
        like: Tensor,
        norms: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]],
        tolerance: float,
        floor: float,
    ) -> None:
        """Find the layout at one use from its norms in both passes on the CPU.

        Args:
            place: The place of its output.
            use: The use.
            like: A tensor with the shape of its gradient.
            norms: What `part_norms` gives for the plain gradient, and for that of scaled examples.
            tolerance: The relative error of the arithmetic.
            floor: The norm up to which values carry no information.
        """
        plain, scaled = norms
        factors = example_factors(self.examples)
        self.certain &= bool((plain[0] > floor).any()) and bool(plain[0].isfinite().all())
        layout = find_layout(like.shape, plain[0], scaled[0], factors, tolerance, floor)
        if layout is not None and serves(use, like, layout):
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
        # Checkpointed modules that are run again start from the same buffers in both passes.
        with additional_pass("gradients of single examples"):
            found = torch.autograd.grad([edge], rest.ends, [gradient], retain_graph=True, allow_unused=True)
        # Autograd does not execute the nodes of these uses, so their hooks are not called.
        for (_, (place, taken)), value in zip(rest.first, found, strict=False):
            if value is not None and taken:
                self.record(place, taken[0], value)


def serves(use: Use, gradient: Tensor, layout: Layout) -> bool:
    """Return whether a use can be separated: any without a rule can, and others if the rule covers every operand."""
    if use.match is None:
        return True
    found = use.match.make(use.match.given, gradient, layout)
    given = use.match.given
    wanted = {id(operand.tensor) for operand in use.operands}
    return found is not None and wanted <= {id(given[name]) for name in found if name in given}


def whole(shape: torch.Size) -> Layout:
    """Return the layout of a tensor that belongs to a single example."""
    return Layout(0, 1, shape[0] if shape else 1)
