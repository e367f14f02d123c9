"""The forward passes of a batch: the uses of parameters, and the outputs by example."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.nn.modules.batchnorm import _BatchNorm

from gradlab.errors import GradlabError
from gradlab.probes.applications import leave
from gradlab.probes.examples.backward_passes import BackwardPasses
from gradlab.probes.examples.batch import OpenBatch
from gradlab.probes.examples.forward import ForwardWatch
from gradlab.probes.examples.pieces import Pieces
from gradlab.probes.examples.structure import tolerance_of
from gradlab.probes.examples.uses import Use, UseFinder
from gradlab.probes.hooks import Hook, in_backward
from gradlab.probes.outputs import refuse_nested
from gradlab.stats import Workspace
from gradlab.stats.pair_products import PairProducts


class ForwardPasses:
    """Opens a batch for each forward pass, and hands its gradients to the backward passes.

    Args:
        model: The root module.
        pieces: The parameters of the model.
        backward: The object that receives the gradients.
        due: A function that returns whether the current step is measured.
        cosine: Whether the mean cosine over all parameters is wanted.

    Attributes:
        stale: The norm of the gradients that existed when the step began; None if there were none.
        without_rows: Whether the model had no output of its own with a row for each example.
    """

    def __init__(
        self, model: nn.Module, pieces: Pieces, backward: BackwardPasses, due: Callable[[], bool], cosine: bool = True
    ) -> None:
        self.model, self.pieces, self.backward, self.due, self.cosine = model, pieces, backward, due, cosine
        self.stale: Tensor | None = None
        self.without_rows = False
        self._attached = False
        self._workspace = Workspace()
        self._finder = UseFinder(pieces.numbers, self._found)
        # The batch that the pass under way adds to, and what it contained before.
        self._before: tuple[OpenBatch, list[object], dict[int, int], int, int] | None = None
        self._watch = ForwardWatch(model, self._watching, self._begin, self._end, self._undo)

    def attach(self, stack: ExitStack) -> None:
        """Register the hooks, and their removal on the stack."""
        stack.callback(self._detach)
        self._attached = True
        self._watch.attach(stack)
        self.backward.shards.attach(stack, self._gathered)
        for name, module in self.model.named_modules():
            if isinstance(module, _BatchNorm):
                stack.enter_context(module.register_forward_pre_hook(Hook(self._refuse_coupling(name))))

    def _detach(self) -> None:
        self._attached = False
        self.backward.batches.clear()
        leave(self._finder)
        self._finder.stop()

    def _gathered(self, number: int, leaf: Tensor) -> None:
        if self._watching():
            self._finder.follow(leaf, number)
            self.backward.checks.follow(number, leaf)

    def _watching(self) -> bool:
        # A forward pass during the backward pass is a recomputation by activation checkpointing.
        # Passes that torch.func differentiates, or that torch.jit records, do not belong to training.
        transformed = torch._C._are_functorch_transforms_active() or torch._C._get_tracing_state() is not None
        return torch.is_grad_enabled() and self.due() and not in_backward() and not transformed

    def _refuse_coupling(self, name: str) -> Callable[[nn.Module, Any], None]:
        def hook(module: nn.Module, args: Any) -> None:
            if self._watching() and (module.training or module.running_mean is None):
                raise GradlabError(
                    f"{name} normalizes with the statistics of the batch, which couple the examples, so that none has "
                    "a gradient of its own: call model.eval() (statistics of training) first"
                )

        return hook

    def _begin(self, module: nn.Module, examples: int, inputs: list[Tensor]) -> None:
        self.backward.forget_failed()
        if not self.backward.batches:
            # One rank's shards tell whether there were any, and other ranks need not be waited for.
            self.stale = self.pieces.norm_of_gradients()
        if not self.pieces.sharded:
            self.backward.checks.follow_all()
        # Parts of a model that are called one after the other belong to one pass.
        goes_on = module is not self.model and self.backward.batches and self.backward.batches[-1].examples == examples
        if not goes_on or self.backward.batches[-1].structure is not None:
            products = PairProducts(examples) if self.cosine else None
            batch = OpenBatch(examples, self.pieces.of, self.pieces.shown, self._workspace, products)
            self.backward.batches.append(batch)
            self.backward.batches[-1].signature += [examples, self.model.training]
            self._before = None
        else:
            batch = self.backward.batches[-1]
            self._before = batch, [*batch.signature], {**batch.uses}, batch.places, batch.outputs
        self._finder.start(examples, inputs)
        self._finder.__enter__()

    def _end(self, outputs: list[Tensor], own: bool) -> None:
        leave(self._finder)
        self._finder.stop()
        self._before = None
        batch = self.backward.batches[-1]
        self.without_rows |= not own
        for output in outputs:
            number, batch.outputs = batch.outputs, batch.outputs + 1
            batch.signature.append(output.shape)
            self._when_arrived(output, functools.partial(self.backward.begin, batch, number))

    def _undo(self) -> None:
        """Leave nothing of a pass that an exception has ended."""
        leave(self._finder)
        self._finder.stop()
        if self._before is None:
            self.backward.batches.pop()
        else:
            batch = self._before[0]
            _, batch.signature, batch.uses, batch.places, batch.outputs = self._before
            self._before = None

    def _found(self, use: Use) -> None:
        refuse_nested(use.outputs, "gradients of single examples")
        batch, sources = self.backward.batches[-1], use.sources
        measured = [number for number in sources if number in self.pieces.chosen]
        number = len(batch.signature)
        batch.signature.append((use.function, sources, use.follows, *(output.shape for output in use.outputs)))
        left = [self.pieces.leaves[i] for i in sources if i not in self.pieces.chosen]
        outputs, use.outputs = use.outputs, []
        use.several = len(outputs) > 1
        taking_part = [*outputs, *(operand.tensor for operand in use.operands)]
        self.backward.checks.precision = max(
            self.backward.checks.precision, *(tolerance_of(tensor.dtype) for tensor in taking_part)
        )
        for place, output in enumerate(outputs):
            batch.places += 1
            for i in measured:
                batch.uses[i] = batch.uses.get(i, 0) + sum(operand.sources.count(i) for operand in use.operands)
            taken = [use]
            self.backward.marks.mark(output, use.before, left, ((number, place), taken))

            def arrived(
                edge: GradientEdge, gradient: Tensor, at: tuple[int, int] = (number, place), taken: list[Use] = taken
            ) -> None:
                self.backward.use_arrived(batch, at, taken, edge, gradient)

            self._when_arrived(output, arrived)

    def _when_arrived(self, output: Tensor, call: Callable[[GradientEdge, Tensor], None]) -> None:
        """Register a call with the edge and the gradient of an output, for when the gradient arrives."""
        place = output.output_nr

        def hook(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[place]
            if self._attached and gradient is not None:
                # The node is not taken from the output, which would form a reference cycle.
                node = torch._C._current_autograd_node()
                with torch.no_grad() if torch.is_grad_enabled() else nullcontext():
                    call(GradientEdge(node, place), gradient)

        # A hook on the node, unlike one on the tensor, sees the gradient after hooks that the model registers later.
        assert output.grad_fn is not None
        output.grad_fn.register_prehook(hook)
