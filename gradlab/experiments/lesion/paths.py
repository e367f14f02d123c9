"""Gradients on single paths through a residual network (Veit et al. 2016, arXiv:1605.06431, §5.2)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self

import torch
from torch import Tensor, nn

from gradlab.errors import GradlabError
from gradlab.experiments.lesion.additions import AdditionMode
from gradlab.experiments.lesion.structure import Structure
from gradlab.probes.blocks.numbering import Place
from gradlab.probes.blocks.operations import Operand

SCALE = 2.0**60
"""The factor of the loss on the way back: a path through 54 modules may have a gradient below the range of float32."""


class PathGradients:
    """Gradients of the loss with respect to the input that flow on one path each.

    The batch runs forward through the whole network. On the way back, the gradient goes through the branches of the
    residual modules on the path, and through the shortcuts of all others. Since examples do not depend on one another
    in eval mode, each has a path of its own, and one backward pass gives as many paths as there are examples.

    Args:
        model: A network in eval mode.
        structure: Its residual modules.
    """

    def __init__(self, model: nn.Module, structure: Structure) -> None:
        self.model = model
        self.places = {part.addition.place: part.addition.stream for part in structure.parts if part.addition}
        # What passes of the gradients of streams and of branches, by module and example: (n, 2, B).
        self.passing = torch.empty(0)

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        self._mode = _Splitting(self, self._stack)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def run(self, compute: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        """Run the network forward on a batch.

        Args:
            compute: A function from the inputs to the loss of each example, (B,).
            inputs: The inputs of the network, (B, …), floating-point.
        """
        self._inputs = inputs.detach().requires_grad_()
        with torch.enable_grad(), self._mode:
            self._loss = SCALE * compute(self._inputs).sum()

    def gradients(self, passing: Tensor) -> Tensor:
        """Return the gradient of each example's loss with respect to its input, (B, …), float64.

        Args:
            passing: What passes of the gradient on each stream and each branch, as 0 or 1, (n, 2, B).
        """
        self.passing = passing.to(self._inputs.dtype)
        (gradient,) = torch.autograd.grad(self._loss, self._inputs, retain_graph=True)
        return gradient.double() / SCALE

    def on_paths(self, through: Tensor) -> Tensor:
        """Return the gradient of each example on its path, (B, …), float64.

        Args:
            through: Whether the path of each example goes through each module's branch, (B, n).
        """
        branches = through.T.to(self._inputs.dtype)
        return self.gradients(torch.stack((1 - branches, branches), 1))

    def check_chain(self, names: list[str]) -> None:
        """Check that every path from the input to the output leads through every addition.

        Args:
            names: The names of the residual modules.

        Raises:
            GradlabError: If one does not, since paths then have no one length; it names the module.
        """
        modules, examples = len(self.places), len(self._inputs)
        left: list[Tensor] = []
        for first in range(0, modules, examples):
            passing = torch.ones(modules, 2, examples, device=self._inputs.device)
            cut = range(first, min(first + examples, modules))
            for example, module in enumerate(cut):
                passing[module, :, example] = 0
            left.append(self.gradients(passing).flatten(1).abs().amax(1)[: len(cut)])
        around = next((name for name, size in zip(names, torch.cat(left).tolist(), strict=False) if size), None)
        if around is not None:
            raise GradlabError(
                f"gradients also flow around {around}, so that paths are no choice of one way through each module"
            )


class _Splitting(AdditionMode):
    """Lets gates decide which gradients pass to the stream and to the branch of each residual module."""

    def __init__(self, paths: PathGradients, stack: ExitStack) -> None:
        super().__init__(paths.model, stack)
        self._paths = paths
        self._index = {place: index for index, place in enumerate(paths.places)}

    def add(self, place: Place, pair: tuple[Operand, Operand], compute: Callable[[], Tensor]) -> Tensor:
        """See `AdditionMode`."""
        if place not in self._index:
            return compute()
        index, stream = self._index[place], self._paths.places[place]
        operands = pair[stream].as_added(), pair[1 - stream].as_added()
        if len(operands[0]) != len(self._paths._inputs):
            raise GradlabError("its stream does not have examples in its first dimension, so that they share paths")
        kept, branch = (_Gate.apply(x.clone(), self._paths, index, side) for side, x in enumerate(operands))
        sum_: Tensor = kept + branch
        return sum_


class _Gate(torch.autograd.Function):
    """The identity, whose gradient passes for some examples only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, paths: PathGradients, index: int, side: int) -> Tensor:
        ctx.gate = paths, index, side
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None, None, None]:
        paths, index, side = ctx.gate
        (gradient,) = gradients
        passing = paths.passing[index, side].to(gradient.dtype)
        return gradient * passing.view(-1, *[1] * (gradient.ndim - 1)), None, None, None


def random_paths(lengths: Tensor, modules: int, generator: torch.Generator) -> Tensor:
    """Draw a random choice of modules of each given size.

    Args:
        lengths: The numbers of modules, (B,).
        modules: The number n of residual modules.
        generator: The generator on the CPU.

    Returns:
        Whether each module is chosen, (B, n).
    """
    ranks = torch.rand(len(lengths), modules, generator=generator).argsort(1).argsort(1)
    return ranks < lengths[:, None]
