"""A probe that stays attached while another library's training loop runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import nn

from gradlab.errors import GradlabError, UsageError
from gradlab.probes import StepProbe
from gradlab.results.gradients.result import GradientsResult

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler

    from gradlab.probes import ExampleGradients, ParameterGradients, ResponseGradients

    GradientProbe = ParameterGradients | ResponseGradients | ExampleGradients

MakeProbe = Callable[[nn.Module], "GradientProbe"]
"""A function that makes a probe of the model, or of a part of it, when training starts."""


class AttachedProbe:
    """Holds a probe between the start and the end of training.

    Args:
        make: A function of the trained model that returns the probe: `gl.ParameterGradients`, or one with options.
    """

    def __init__(self, make: MakeProbe) -> None:
        self.make = make
        self.probe: GradientProbe | None = None
        self._attached = False

    def attach(self, model: nn.Module, steps: int, scaler: GradScaler | None) -> None:
        """Make the probe and attach it.

        Args:
            model: The model that is trained.
            steps: The number of optimizer steps so far.
            scaler: The GradScaler of mixed-precision training, if any.

        Raises:
            UsageError: If `make` does not return a probe of gradients.
        """
        self.detach()
        probe = self.make(model)
        if not isinstance(probe, StepProbe):
            raise UsageError(
                f"a callback needs a probe of gradients with a step(), not {type(probe).__name__}: put others "
                "around the call that trains, as a context manager"
            )
        probe.steps, probe.scaler = steps, probe.scaler or scaler
        self.probe = probe
        self.probe.__enter__()
        self._attached = True

    def step(self) -> None:
        """Notify the probe of an optimizer step."""
        if self.probe is not None and self._attached:
            self.probe.step()

    def detach(self) -> None:
        """Detach the probe, if it is attached."""
        if self.probe is not None and self._attached:
            self._attached = False
            self.probe.__exit__(None, None, None)

    def result(self, network: str | None = None) -> GradientsResult:
        """Return the measurement so far.

        Args:
            network: The name of the model in the result.

        Raises:
            GradlabError: If training has not started, or nothing was measured.
        """
        if self.probe is None:
            raise GradlabError("training has not started: there is nothing measured yet")
        return self.probe.result(network)
