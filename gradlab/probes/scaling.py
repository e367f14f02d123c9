"""Which gradients a GradScaler has freed of its scale."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from torch.optim import Optimizer

from gradlab.errors import GradlabError

if TYPE_CHECKING:
    from torch.amp.grad_scaler import GradScaler


class UnscaleRecord:
    """Stands in for a scaler's `unscale_` and remembers whose gradients it was called for.

    A scaler keeps its state by optimizer, and no reference to the optimizers.

    Args:
        scaler: The one it stands in for.
    """

    def __init__(self, scaler: GradScaler) -> None:
        self.scaler = scaler
        self.probes = 0
        self._parameters: dict[int, set[int]] = {}
        self._states: Any = None

    def __call__(self, optimizer: Optimizer) -> None:
        """Divide the scale out of an optimizer's gradients, as the scaler does."""
        type(self.scaler).unscale_(self.scaler, optimizer)
        self._now()[id(optimizer)] = {id(p) for group in optimizer.param_groups for p in group["params"]}

    def parameters(self) -> set[int]:
        """The ids of the parameters whose gradients are free of the scale in this step.

        Raises:
            GradlabError: When that was done before a probe was there to see it.
        """
        known = self._now()
        states: dict[int, dict[str, Any]] = getattr(self.scaler, "_per_optimizer_states", {})
        if any(state["stage"].name == "UNSCALED" and key not in known for key, state in states.items()):
            raise GradlabError(
                "scaler.unscale_ was called before the probe was attached, so that nothing tells which gradients are "
                "scaled: enter the probe's `with` block before the backward pass"
            )
        return {parameter for parameters in known.values() for parameter in parameters}

    def _now(self) -> dict[int, set[int]]:
        """What was recorded since the scaler's last `update`, which puts new states in the place of the old."""
        states = getattr(self.scaler, "_per_optimizer_states", None)
        if states is not self._states:
            self._states, self._parameters = states, {}
        return self._parameters


def watch_unscaling(scaler: GradScaler, stack: ExitStack) -> UnscaleRecord:
    """Have a scaler's `unscale_` recorded, by all probes together; the stack takes the record off again."""
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
