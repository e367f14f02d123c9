"""The first non-finite value of a pass: where it began, by what and why, in one sentence."""

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
    """Where a value that is not finite began; prints as one sentence.

    Attributes:
        layer: Qualified name of the innermost module, `""` for the model itself, None where it was outside of the
            model, as in the loss.
        kind: The class of that module, or empty.
        call: Which call of the module it was, counted from 1 within a pass.
        operation: The operation, in users' words (`matmul`, `log`, `softmax`); in a backward pass the one whose
            derivative was computed, in an update what the optimizer computed.
        direction: `forward`, `backward` or `update`.
        cause: `operation`, where it was given finite numbers or masks; `weight`, `buffer` or `input`, where that held
            it already; `scale`, where the loss scale alone makes gradients too large.
        reason: Why, in words.
        value: `NaN`, `inf` or `−inf`.
        dtype: Of the value, such as `float16`.
        tensor: Name of the weight, of the buffer or of the input, where that is the cause.
        line: File and line of the code that called the operation; None where no code of the user's did.
        hidden: Whether the forward pass hides it again, so that it shows in gradients alone.
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
    """The origin that a fault is, in words.

    Args:
        fault: Where the value began.
        hidden: Whether what the forward pass gives is finite.
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
