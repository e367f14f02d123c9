"""Record of the gradients that a GradScaler has unscaled."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler


class UnscaleRecord:
    """Replaces a scaler's `unscale_` and records the parameters whose gradients it unscales.

    A scaler keeps its state per optimizer, without a reference to the optimizers.

    Args:
        scaler: The scaler whose method is replaced.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self.probes = 0
        self._parameters: dict[int, set[int]] = {}
        self._states: Any = None

    def __call__(self, optimizer: Optimizer) -> None:
        """Unscale an optimizer's gradients, as the scaler does."""
        type(self.scaler).unscale_(self.scaler, optimizer)
        self._now()[id(optimizer)] = {id(p) for group in optimizer.param_groups for p in group["params"]}

    def parameters(self) -> set[int]:
        """Return the ids of the parameters whose gradients have been unscaled in this step.

        Raises:
            GradlabError: If gradients were unscaled before a probe was attached.
        """
        known = self._now()
        states: dict[int, dict[str, Any]] = getattr(self.scaler, "_per_optimizer_states", {})
        if any(state["stage"].name == "UNSCALED" and key not in known for key, state in states.items()):
            raise GradlabError(
                "scaler.unscale_ was called before the probe was attached, so it is unknown which gradients are "
                "scaled: enter the probe's `with` block before the backward pass"
            )
        return {parameter for parameters in known.values() for parameter in parameters}

    def _now(self) -> dict[int, set[int]]:
        """Return the record since the scaler's last `update`, which replaces its states."""
        states = getattr(self.scaler, "_per_optimizer_states", None)
        if states is not self._states:
            self._states, self._parameters = states, {}
        return self._parameters


def watch_unscaling(scaler: GradScaler, stack: ExitStack) -> UnscaleRecord:
    """Record the calls of a scaler's `unscale_` for all probes together, until the stack closes."""
    record = vars(scaler).get("unscale_")
    if not isinstance(record, UnscaleRecord):
        record = scaler.unscale_ = UnscaleRecord(scaler)  # type: ignore[method-assign,assignment]
    record.probes += 1

    def leave() -> None:
        record.probes -= 1
        if not record.probes:
            vars(scaler).pop("unscale_", None)

    stack.callback(leave)
    return record
