"""A probe of gradients as a callback of Hugging Face's Trainer; needs `pip install gradlab-torch[transformers]`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from gradlab.callbacks.attached import AttachedProbe, MakeProbe
from gradlab.callbacks.watching import Logged, WatchingCallback
from gradlab.errors import GradlabError
from gradlab.probes import ParameterGradients, Schedule
from gradlab.results.gradients.result import GradientsResult
from gradlab.sinks import AnySink

try:
    from transformers import Trainer, TrainerCallback
except ModuleNotFoundError as error:
    raise GradlabError("transformers is not installed: pip install 'gradlab-torch[transformers]'") from error


class ProbeCallback(TrainerCallback):
    """Measures gradients while `transformers.Trainer.train` trains.

        gradients = ProbeCallback(lambda model: gl.ParameterGradients(model, every=100))
        transformers.Trainer(model, arguments, train_dataset=data, callbacks=[gradients]).train()
        gradients.result().to_frame()

    The Trainer calls back between clipping and the optimizer's step, so gradients of parameters are measured after
    clipping, which the result notes; `max_grad_norm=0` disables clipping. The scale of mixed precision is divided out.
    If training ends in an exception, the Trainer does not call back, and `close` detaches the probe.

    Args:
        make: A function of the model that returns the probe, called when training starts.
    """

    def __init__(self, make: MakeProbe) -> None:
        self._attached = AttachedProbe(make)
        self._clipped_at = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach the probe."""
        self._clipped_at = args.max_grad_norm or 0.0
        scaler = getattr(kwargs.get("optimizer"), "scaler", None)
        self._attached.attach(kwargs["model"], state.global_step, scaler)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if the schedule includes this step."""
        self._attached.step()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Detach the probe."""
        self.close()

    def close(self) -> None:
        """Detach the probe, if it is attached."""
        self._attached.detach()

    def result(self, network: str | None = None) -> GradientsResult:
        """Return the measurement so far.

        Args:
            network: The name of the model in the result.

        Raises:
            GradlabError: If training has not started, or nothing was measured.
        """
        result = self._attached.result(network)
        if self._clipped_at and isinstance(self._attached.probe, ParameterGradients):
            result.notes.append(
                f"parameters' gradients are those after the Trainer has clipped their total norm to "
                f"max_grad_norm={self._clipped_at:g}; max_grad_norm=0 switches that off"
            )
        return result


class WatchCallback(WatchingCallback, TrainerCallback):
    """Watches every layer while `transformers.Trainer.train` trains; see `gl.watch`.

        watch = WatchCallback(every=50)
        transformers.Trainer(model, arguments, train_dataset=data, callbacks=[watch]).train()
        watch.result().findings()

    What is recorded goes into the Trainer's own logs as well, and by them to what it reports to, as
    `gradlab/STATISTIC/LAYER`. When training ends in an exception the Trainer tells nobody, and `close` takes the watch
    off.

    Args:
        every: As of `gl.watch`.
        log: Which values the Trainer's logs get: `all`, those of the `total`, or `nothing`.
        sinks: Who else gets the rows.
        **options: More of `gl.watch`.
    """

    def __init__(
        self, every: Schedule = 50, *, log: Logged = "total", sinks: Iterable[AnySink] = (), **options: Any
    ) -> None:
        super().__init__(every, log, sinks, options)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Put the watch on."""
        trainer = _calling_trainer()

        def log(values: dict[str, float], step: int) -> None:
            if trainer is not None:
                trainer.log(values)

        self._attached.attach(kwargs["model"], [kwargs["optimizer"]], state.global_step, log)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the watch off."""
        self.close()


def _calling_trainer() -> Any:
    """The Trainer that calls its callbacks, which it does not tell them; None where there is none."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        if isinstance(frame.f_locals.get("self"), Trainer):
            return frame.f_locals["self"]
    return None
