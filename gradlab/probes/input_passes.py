"""One forward pass whose logits are differentiated with respect to its input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.autograd import forward_ad

from gradlab.errors import GradlabError
from gradlab.probes.applications import leave
from gradlab.probes.frozen import FrozenStatistics
from gradlab.probes.outputs import logits_of
from gradlab.probes.recomputation import additional_pass


@dataclass
class InputPass:
    """A pass in a context of its own: with a graph, and with batch statistics that can be taken as constants.

    Attributes:
        source: The input to differentiate with respect to.
        statistics: The batch statistics that can be constants, or None.
        caller_wants_graph: Whether the caller runs the model with a graph.
        contexts: What is to be left when the pass is over.
        inside: How many calls of the model are under way within this one.
    """

    source: Tensor
    statistics: FrozenStatistics | None
    caller_wants_graph: bool
    contexts: ExitStack
    inside: int = 0

    @classmethod
    def of(cls, images: Tensor, *, frozen: bool) -> InputPass:
        """Begin a pass.

        Args:
            images: The input.
            frozen: Whether batch statistics are taken as constants.

        Raises:
            GradlabError: If activation checkpointing runs the model.
        """
        caller_wants_graph = torch.is_grad_enabled()
        if caller_wants_graph and not images.requires_grad and _is_checkpointed():
            raise GradlabError(
                "input gradients cannot be taken where torch.utils.checkpoint runs the whole model, which would run "
                "otherwise in the backward pass: checkpoint parts inside of it, or give it an input that requires a "
                "gradient"
            )
        with ExitStack() as contexts:
            contexts.enter_context(torch.inference_mode(False))
            contexts.enter_context(torch.enable_grad())
            statistics = contexts.enter_context(_taken_off(FrozenStatistics())) if frozen else None
            source = images if images.requires_grad else images.detach().clone().requires_grad_()
            return cls(source, statistics, caller_wants_graph, contexts.pop_all())

    def gradients(self, whole: Any) -> Tensor:
        """Return the gradient of the summed logits with respect to the input.

        Args:
            whole: What the model returns.

        Raises:
            GradlabError: If it has no logits that depend on the input.
        """
        count, output = len(self.source), logits_of(whole)
        if output is None or not output.is_floating_point() or output.ndim < 1 or len(output) != count:
            given = type(whole).__name__ if output is None else f"a tensor of shape {tuple(output.shape)}"
            raise GradlabError(
                f"input gradients need logits, a tensor with a row for each of {count} inputs, not {given}: probe a "
                "part of the model that returns them, or a module of your own around it that does"
            )
        if not output.requires_grad:
            raise GradlabError("the model's output does not depend on its input in a way that can be differentiated")
        if self.statistics is not None:
            self.statistics.constant = True
        try:
            with additional_pass("the gradient of inputs", follows=self.caller_wants_graph):
                (gradients,) = torch.autograd.grad(
                    output.sum(), self.source, retain_graph=self.caller_wants_graph, allow_unused=True
                )
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise GradlabError(
                "input gradients cannot be taken through reentrant activation checkpointing: pass use_reentrant=False "
                "to torch.utils.checkpoint.checkpoint"
            ) from error
        finally:
            if self.statistics is not None:
                self.statistics.constant = False
        if gradients is None:
            raise GradlabError("the model's output does not depend on its input")
        return gradients.detach()  # type: ignore[no-any-return]


def refuse_transforms() -> None:
    """Check that no function is differentiated that runs the model, since the probe would change what it gives.

    Raises:
        GradlabError: If a transform of `torch.func` is active, or forward-mode differentiation.
    """
    if torch._C._are_functorch_transforms_active():
        raise GradlabError(
            "input gradients cannot be taken inside of a torch.func transform: run the model there without the probe"
        )
    if forward_ad._current_level >= 0:
        raise GradlabError(
            "input gradients cannot be taken inside of torch.autograd.forward_ad.dual_level: run the model there "
            "without the probe"
        )


def _is_checkpointed() -> bool:
    """Return whether activation checkpointing runs the caller, and compares what is saved when it does so again."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == "checkpoint" and frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            return True
        frame = frame.f_back
    return False


@contextmanager
def _taken_off(mode: FrozenStatistics) -> Iterator[FrozenStatistics]:
    """Enter a mode, and later remove it from the stack of modes even if other modes were entered after it."""
    mode.__enter__()
    try:
        yield mode
    finally:
        leave(mode)
