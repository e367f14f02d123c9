"""The backward pass of a batch, separated into those of its examples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from gradlab.errors import GradlabError
from gradlab.probes.backward_passes import FollowedPasses, declared
from gradlab.probes.examples.apart import by_passes, taken_apart
from gradlab.probes.examples.backward import UseMarks, add_gradient, is_watched
from gradlab.probes.examples.batch import OpenBatch, Structure
from gradlab.probes.examples.checks import GradientChecks
from gradlab.probes.examples.layout import Layout
from gradlab.probes.examples.left_gradients import LeftGradients
from gradlab.probes.examples.pieces import Pieces
from gradlab.probes.examples.shards import Shards
from gradlab.probes.examples.structure import Trial, whole
from gradlab.probes.examples.uses import Use
from gradlab.probes.recomputation import additional_pass
from gradlab.stats import l2_norms


class BackwardPasses:
    """Collects the gradients of examples as they arrive at the uses of parameters.

    Args:
        pieces: The parameters.
        shards: Those of them that ranks have parts of.

    Attributes:
        batches: The batches of the current step.
        marks: The known uses of parameters, in autograd's graph.
        checks: The comparison of every gradient with the sum over examples.
        structures: The structures of backward passes, by the signature of the forward pass.
        joined: The norms of the pieces' gradients summed over the batches of the step, if there are several.
        left: The gradients as the passes of the step have left them.
    """

    def __init__(self, pieces: Pieces, shards: Shards) -> None:
        # torch.autograd.grad imports this when first given gradients, which should not be in a user's backward pass.
        from torch.fx.experimental import symbolic_shapes  # noqa: F401

        self.pieces, self.shards = pieces, shards
        self.batches: list[OpenBatch] = []
        self.marks, self.checks = UseMarks(), GradientChecks(pieces.parameters, pieces.chosen)
        self.structures: dict[tuple[object, ...], Structure] = {}
        self.joined: dict[int, Tensor] = {}
        self.left = LeftGradients(pieces)
        self._trial: Trial | None = None
        self._inner: Literal["", "trial", "follow", "inside", "apart"] = ""
        self._inside: Use | None = None
        self._own = False
        self._summed: set[int] = set()
        self._followed = FollowedPasses()

    @property
    def slow(self) -> set[int]:
        """The numbers of the parameters that needed one backward pass per example."""
        return {i for structure in self.structures.values() for i in structure.slow & {*self.pieces.chosen}}

    def begin(self, batch: OpenBatch, number: int, edge: GradientEdge, gradient: Tensor) -> None:
        """Handle the arrival of the gradient at an output of the model, and determine the structure behind it.

        Args:
            batch: The forward pass.
            number: The number of the output.
            edge: The output, as an edge of the graph.
            gradient: The gradient of the output, shape (B, …).
        """
        if self._inner == "follow":
            batch.passed_on[number] = gradient + batch.passed_on.get(number, 0)
        if self._inner or not self._counts():
            return
        self._followed.follow(batch)
        self._forget_undone()
        key = tuple(batch.signature)
        if batch.structure is None:
            # Ranks that gather parameters in a backward pass have to make the same passes, whatever they know.
            known = None if self.pieces.sharded else self.structures.get(key)
            batch.structure = known or Structure()
        structure = batch.structure
        if number not in structure.tried and (not structure.tried or len(structure.layouts) < batch.places):
            self._try(batch, structure, edge, gradient)
            structure.tried.add(number)
            if structure.certain:
                self.structures[key] = structure
        slow = sorted(structure.slow & {*self.pieces.chosen})
        if slow and self.pieces.sharded:
            raise GradlabError(
                f"{self.pieces.names(slow)}: the gradient cannot be separated where it arises, and a backward pass for "
                "each example would gather sharded parameters as often: measure the model before fully_shard, or leave "
                "the layer out with layers="
            )
        if slow:
            self._pass_by_pass(batch, number, slow, edge, gradient)
        early, batch.early = batch.early, []
        for call in early:
            call()

    def _try(self, batch: OpenBatch, structure: Structure, edge: GradientEdge, gradient: Tensor) -> None:
        rest = self.marks.left_over(edge.node)
        if rest.reentrant:
            inside = {i for i in self.pieces.chosen if self.pieces.parameters[i].requires_grad and i not in batch.uses}
            raise GradlabError(
                f"{self.pieces.names(inside) or 'the model'}: reentrant activation checkpointing hides what runs "
                "inside; use_reentrant=False shows it"
            )
        structure.slow |= {i for i in self.pieces.chosen if self.pieces.leaves[i] in rest.unseen}
        self._trial = trial = Trial(batch.examples, lambda use: self.pieces.names(use.sources))
        if batch.examples > 1 or self.pieces.sharded:
            with self._within("trial"):
                trial.run(edge, gradient, rest)
        structure.layouts.update(trial.found)
        structure.slow |= trial.slow
        structure.certain &= trial.certain

    def _pass_by_pass(
        self, batch: OpenBatch, number: int, slow: list[int], edge: GradientEdge, gradient: Tensor
    ) -> None:
        """Compute the gradients of some parameters by one backward pass per example."""
        rest = gradient - batch.passed_on.get(number, 0)
        if number in batch.passed_on and rest.norm() <= 1e-9 * gradient.norm():
            return
        parameters = [self.pieces.parameters[i] for i in slow]
        if hooked := [i for i in slow if self.pieces.parameters[i]._backward_hooks]:
            raise GradlabError(
                f"{self.pieces.names(hooked)}: has a hook of its own, which a backward pass for each example would "
                "call again and again: take it off while they are measured, or leave the layer out with layers="
            )
        if batch.outputs > 1:
            with self._within("follow"):
                torch.autograd.grad([edge], parameters, [rest], retain_graph=True, allow_unused=True)
        with self._within("apart"):
            found = by_passes([edge], rest, Layout(0, batch.examples), parameters)
        for i, rows in zip(slow, found, strict=True):
            # More may arrive from other outputs of the model until the step ends.
            batch.uses[i] = max(2, batch.uses.get(i, 0)) + 1
            batch.add(i, rows, self._give)

    def use_arrived(
        self, batch: OpenBatch, at: tuple[int, int], taken: list[Use], edge: GradientEdge, gradient: Tensor
    ) -> None:
        """Handle the arrival of the gradient at an output of a use, and separate it by examples.

        Args:
            batch: The forward pass.
            at: The number of the use in the pass, and of its output.
            taken: A list with the use, which is emptied.
            edge: The output, as an edge of the graph.
            gradient: The gradient of the output.

        Raises:
            GradlabError: If the gradient cannot be separated.
        """
        if self._inner == "trial" and self._trial is not None and taken:
            self._trial.record(at, taken[0], gradient)
        if self._inner == "inside" and taken and taken[0] is self._inside:
            self._inside.passed_on[at[1]] = gradient + self._inside.passed_on.get(at[1], 0)
        if self._inner or not self._counts():
            return
        self._followed.follow(batch)
        self._forget_undone()
        # If an output of the model is that of a use, the gradient arrives at the use first.
        if batch.structure is None or (batch.examples > 1 and at not in batch.structure.layouts):
            batch.early.append(lambda: self.use_arrived(batch, at, taken, edge, gradient))
            return
        if not taken:
            raise GradlabError(
                "two backward passes through one forward pass: add the losses up and call backward once, so that each "
                "example has one gradient"
            )
        # The use is not kept any longer, just as autograd frees saved tensors on the way.
        use = taken.pop()
        measured = {i for i in use.sources if i in self.pieces.chosen} - batch.structure.slow
        if not measured:
            return
        changed = any(tensor._version != version for tensor, version in use.inputs)
        if changed and use.match is not None:
            raise GradlabError(
                f"{self.pieces.names(use.sources)}: the input of {use.function} was changed in place after it had been "
                "read: use the operation that returns a new tensor"
            )
        layout = whole(gradient.shape) if batch.examples == 1 else batch.structure.layouts[at]
        assert layout is not None
        if use.match is None and use.several:
            # One output may be computed from another, as an LSTM's response is from its cells.
            gradient = gradient - use.passed_on.get(at[1], 0)
            self._inside = use
            stand_ins = [operand.stand_in for operand in use.operands if operand.stand_in is not None]
            if stand_ins:
                with self._within("inside"):
                    torch.autograd.grad([edge], stand_ins, [gradient], retain_graph=True, allow_unused=True)
        with self._within("apart"):
            for i, contribution in taken_apart(use, edge, gradient, layout, self.pieces.leaves):
                if i in measured:
                    batch.add(i, contribution, self._give)

    def forget_failed(self) -> None:
        """Drop the batches whose backward passes an exception has ended, as for too little memory."""
        failed = self._followed.failed()
        if not failed:
            return
        self.batches[:] = [batch for batch in self.batches if batch.task not in failed]
        self.checks.forget_failed()
        if not any(batch.structure is not None for batch in self.batches):
            self.joined.clear()
        else:
            self.left.failed(failed)

    def _forget_undone(self) -> None:
        """Drop the batches of earlier passes whose gradients were cleared since, as before a second pass of SAM."""
        if self.left.are_undone():
            self.batches[:] = [batch for batch in self.batches if batch.structure is None]
            self.joined.clear()

    @contextmanager
    def _within(self, what: Literal["trial", "follow", "inside", "apart"]) -> Iterator[None]:
        """A context for backward passes that the probe makes itself."""
        self._inner = what
        try:
            with self.shards.left_whole(), additional_pass("gradients of single examples"):
                yield
        finally:
            self._inner = ""

    def _counts(self) -> bool:
        """Return whether the current backward pass adds to the gradients of parameters."""
        return self._own or self.checks.accumulates()

    def _give(self, number: int, total: Tensor, sizes: Tensor) -> None:
        if number in self._summed:
            add_gradient(self.pieces.parameters[number], total)
            self.accumulated(number)
        else:
            self.checks.expect(number, total, sizes)

    def counts(self) -> bool:
        """Return whether gradients now arriving belong to the step, and not to a pass that the probe makes itself."""
        return not self._inner and self._counts()

    def accumulated(self, number: int, *_: object) -> None:
        """Record the norm of a parameter's gradient, which is the sum over batches if there are several."""
        if self.batches:
            self.left.reach(number)
        if self.batches and not self.pieces.sharded:
            self.left.take(number)
        if sum(batch.structure is not None for batch in self.batches) > 1:
            gradient = self.pieces.parameters[number].grad
            for piece, place in self.pieces.of[number]:
                if gradient is not None:
                    self.joined[piece] = l2_norms([gradient if place is None else gradient.flatten()[place]])[0]

    def refuse_unheard(self, given: set[int]) -> None:
        """Check that the sum over batches is known of all pieces of which examples gave gradients.

        Raises:
            GradlabError: If not, since torch took the hooks of parameters that it swapped as it converted a model.
        """
        silent = given - self.joined.keys()
        unheard = {i for i, of in self.pieces.of.items() if any(piece in silent for piece, _ in of)}
        if unheard:
            self.joined.clear()
            self.checks.forget()
            raise GradlabError(
                f"{self.pieces.names(unheard)}: examples gave a gradient that was not seen to be added to .grad, as "
                "where torch swaps parameters or backward() is given other inputs=: make such steps of one batch, or "
                "enter the `with` block after the model is converted"
            )

    def run(self, loss: Tensor, retain_graph: bool) -> bool:
        """Make a backward pass in which the gradients of parameters are the sums over examples.

        Args:
            loss: A tensor with one element and a graph.
            retain_graph: Whether to retain the graph, as in `Tensor.backward`.

        Returns:
            Whether the pass was made, which it is not for the first pass of each kind or reentrant checkpointing.
        """
        structures = [self.structures.get(tuple(b.signature)) for b in self.batches if b.structure is None]
        if not structures or not all(structures) or loss.grad_fn is None:
            return False
        rest = self.marks.left_over(loss.grad_fn)
        if rest.reentrant:
            return False
        slow = {i for structure in structures if structure is not None for i in structure.slow}
        watched = (
            p
            for i, p in enumerate(self.pieces.parameters)
            if p.requires_grad and (i in slow or is_watched(p, int(i in self.pieces.chosen)))
        )
        leaves = dict.fromkeys([*rest.leaves, *watched])
        self._summed = {i for i in self.pieces.chosen if self.pieces.parameters[i] not in leaves}
        ends: list[Any] = [*(edge for edge, _ in rest.first), *leaves]
        self._own = True
        try:
            with declared():
                torch.autograd.backward(loss, retain_graph=retain_graph, inputs=ends)
        finally:
            self._own, self._summed = False, set()
        return True
