"""The origin of the first non-finite value of a pass: place, operation and reason in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gradlab.probes.nonfinite.causes import reason
from gradlab.probes.nonfinite.tracing import Fault
from gradlab.probes.nonfinite.values import Operation, Place

Cause = Literal["operation", "weight", "buffer", "input", "scale"]


@dataclass(frozen=True)
class Origin:
    """The origin of a non-finite value, which prints as one sentence.

    Attributes:
        layer: The qualified name of the innermost module, `""` for the model itself, None outside of the model, as in
            the loss.
        kind: The class of that module, or an empty string.
        call: The number of the call of the module within the pass, counted from 1.
        operation: The operation by its usual name (`matmul`, `log`, `softmax`); in a backward pass the operation whose
            derivative was computed, in an update the operation of the optimizer.
        direction: The pass: `forward`, `backward` or `update`.
        cause: The cause: `operation` if its inputs were finite or masks; `weight`, `buffer` or `input` if that tensor
            was non-finite already; `scale` if gradients overflow only because of the loss scale.
        reason: The reason, in words.
        value: The value: `NaN`, `inf` or `−inf`.
        dtype: The dtype of the value, such as `float16`.
        tensor: The name of the weight, the buffer or the input, if that is the cause.
        line: The file and line of the code that called the operation; None if it was not called by user code.
        hidden: Whether the output of the forward pass is finite nevertheless, so that only gradients show the value.
        step: The optimizer step in a training loop, counted from 0; None for a single batch.
    """

    layer: str | None
    kind: str
    call: int
    operation: str
    direction: Literal["forward", "backward", "update"]
    cause: Cause
    reason: str
    value: str
    dtype: str
    tensor: str | None = None
    line: tuple[str, int] | None = None
    hidden: bool = False
    step: int | None = None

    def __str__(self) -> str:
        when = "" if self.step is None else f"At step {self.step}: "
        line = "" if self.line is None else f" ({Path(self.line[0]).name}:{self.line[1]})"
        hidden = "; the forward pass hides it again, and it comes back in the gradients" if self.hidden else ""
        return f"{when}{self._what()}{line}{hidden}."

    def _what(self) -> str:
        if self.cause in ("weight", "buffer", "input"):
            name = f" {self.tensor}" if self.tensor else ""
            enters = f"{self._passing()} it enters by {self.operation} {self._where()}"
            return f"the {self.cause}{name} itself holds {self.value}; {enters}"
        by = f"{self.operation} {self._where()} gives the first {self.value}"
        return f"{by}, {self._passing()}: {self.reason}"

    def _passing(self) -> str:
        return "in the optimizer's update" if self.direction == "update" else f"in the {self.direction} pass"

    def _where(self) -> str:
        if self.layer is None:
            return "outside of the model, as in the loss," if self.direction != "update" else "of the update"
        place = f"in layer {self.layer} ({self.kind})" if self.layer else f"in the model itself ({self.kind})"
        return f"{place}, call {self.call}," if self.call > 1 else place


def described(fault: Fault, *, hidden: bool, step: int | None = None) -> Origin:
    """The origin of a fault, in words.

    Args:
        fault: The fault.
        hidden: Whether the output of the forward pass is finite.
        step: The optimizer step.
    """
    operation = fault.operation or Operation("nothing", "", "forward", Place())
    place, source = operation.place, fault.source
    return Origin(
        layer=place.layer,
        kind=place.kind,
        call=place.call,
        operation=operation.name,
        direction=operation.stage,  # type: ignore[arg-type]
        cause=source.kind if source else "operation",  # type: ignore[arg-type]
        reason="it was not finite before" if source else reason(fault),
        value=fault.value.shows,
        dtype=str(fault.value.dtype).removeprefix("torch."),
        tensor=source.name if source else None,
        line=operation.line,
        hidden=hidden and operation.stage == "forward" and source is None,
        step=step,
    )
