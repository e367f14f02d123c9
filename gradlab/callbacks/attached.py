"""A probe that is attached for as long as another library's training loop runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes import StepProbe
from gradlab.results import GradientsResult

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

    from gradlab.probes import ExampleGradients, ParameterGradients, ResponseGradients

    GradientProbe = ParameterGradients | ResponseGradients | ExampleGradients

MakeProbe = Callable[[nn.Module], "GradientProbe"]
"""Makes a probe of the model, or of a part of it, when training starts."""


class AttachedProbe:
    """Holds a probe between the start and the end of training.

    Args:
        make: Called with the model that is trained: `gl.ParameterGradients`, or a function that adds options.
    """

    def __init__(self, make: MakeProbe) -> None:
        self.make = make
        self.probe: GradientProbe | None = None
        self._attached = False

    def attach(self, model: nn.Module, steps: int, scaler: GradScaler | None) -> None:
        """Make the probe and put it on.

        Args:
            model: What is trained.
            steps: Optimizer steps made so far.
            scaler: That of mixed precision, if there is one.

        Raises:
            UsageError: When `make` returns no such probe.
        """
        self.detach()
        probe = self.make(model)
        if not isinstance(probe, StepProbe):
            raise UsageError(f"a callback needs a probe of gradients with a step(), not {type(probe).__name__}")
        probe.steps, probe.scaler = steps, probe.scaler or scaler
        self.probe = probe
        self.probe.__enter__()
        self._attached = True

    def step(self) -> None:
        """Tell the probe of an optimizer step."""
        if self.probe is not None and self._attached:
            self.probe.step()

    def detach(self) -> None:
        """Take the probe off; nothing happens when it is off."""
        if self.probe is not None and self._attached:
            self._attached = False
            self.probe.__exit__(None, None, None)

    def result(self, network: str | None = None) -> GradientsResult:
        """The measurement so far.

        Args:
            network: What to call the model.

        Raises:
            GradlabError: Before training has started, or when nothing was measured.
        """
        if self.probe is None:
            raise GradlabError("training has not started: there is nothing measured yet")
        return self.probe.result(network)
