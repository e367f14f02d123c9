"""A probe of gradients as a Lightning callback; needs `pip install gradlab-torch[lightning]`."""

from __future__ import annotations

from typing import Any

from gradlab.callbacks.attached import AttachedProbe, MakeProbe
from gradlab.errors import GradlabError
from gradlab.results.gradients.result import GradientsResult

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError as error:
    raise GradlabError("Lightning is not installed: pip install 'gradlab-torch[lightning]'") from error


class ProbeCallback(Callback):
    """Measures gradients while `lightning.Trainer.fit` trains.

        gradients = ProbeCallback(lambda module: gl.ParameterGradients(module, every=100))
        lightning.Trainer(callbacks=[gradients]).fit(module, loader)
        gradients.result().to_frame()

    Gradients of parameters are measured before Lightning clips them, and the scale of mixed precision is divided out.
    If `training_step` runs a network that the module contains, probe that network: `lambda module:
    gl.ResponseGradients(module.network)`. With several optimizers, each of their steps counts.

    Args:
        make: A function of the LightningModule that returns the probe, called when training starts.
    """

    def __init__(self, make: MakeProbe) -> None:
        self._attached = AttachedProbe(make)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach the probe."""
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._attached.attach(pl_module, trainer.global_step, scaler)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Measure, if the schedule includes this step."""
        self._attached.step()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Detach the probe."""
        self._attached.detach()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Detach the probe."""
        self._attached.detach()

    def result(self, network: str | None = None) -> GradientsResult:
        """Return the measurement so far.

        Args:
            network: The name of the model in the result.

        Raises:
            GradlabError: If training has not started, or nothing was measured.
        """
        return self._attached.result(network)
