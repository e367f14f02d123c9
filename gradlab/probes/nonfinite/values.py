"""The record of a pass for the search: its operations, and for each tensor whether it is finite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """A place in a model.

    Attributes:
        layer: The qualified name of the innermost running module, `""` for the model itself, None outside of it.
        kind: The class of the module.
        call: The number of calls of the module in this pass, including this one.
    """

    layer: str | None = None
    kind: str = ""
    call: int = 1


@dataclass(frozen=True)
class Source:
    """The source of a tensor that no operation of the pass has returned.

    Attributes:
        kind: The kind of source: `weight`, `buffer` or `input`.
        name: The name of the weight or buffer; for an input, its place in the batch or an empty string.
    """

    kind: str
    name: str = ""


@dataclass(eq=False, slots=True)
class Operation:
    """One operation of a pass.

    Attributes:
        name: The usual name, such as `matmul` or `softmax`; in a backward pass the name of the forward operation.
        function: The name in ATen.
        stage: The pass: `forward`, `backward` or `update`.
        place: The module in which it runs.
        line: The file and line of the code that called it.
        inputs: The values of its inputs.
        constant: Whether one of its arguments is an infinite Python number.
        passes: Whether its output has the values of its input, as for views, copies and casts.
        zero: Whether its divisor, or the base of its power, contains 0, as a tensor on its device.
        count: The number of elements of its first input.
    """

    name: str
    function: str
    stage: str
    place: Place
    line: tuple[str, int] | None = None
    inputs: tuple[Value, ...] = ()
    constant: bool = False
    passes: bool = False
    zero: Tensor | None = None
    count: int = 0


@dataclass(eq=False, slots=True)
class Value:
    """The contents of a tensor at one time.

    Attributes:
        number: The number of the value; values are numbered in the order in which they arise.
        dtype: The dtype of the tensor.
        maker: The operation that returned it; None if it came from outside, or several operations wrote parts of it.
        writers: The values that were written into the memory from which this value is read.
        source: The source of the tensor, if it came from outside.
        extremes: The smallest and the largest element, two scalars on the tensor's device; None without elements.
        unset: Whether it is uninitialized memory.
        smallest: The smallest element, NaN if an element is NaN; known once the value is settled.
        largest: The largest element, NaN if an element is NaN; known once the value is settled.
    """

    number: int
    dtype: torch.dtype
    maker: Operation | None = None
    writers: tuple[Value, ...] = ()
    source: Source | None = None
    extremes: tuple[Tensor, Tensor] | None = None
    unset: bool = False
    smallest: float = field(default=0.0)
    largest: float = field(default=0.0)

    @property
    def has_nan(self) -> bool:
        """Whether an element is NaN."""
        return self.smallest != self.smallest

    @property
    def is_finite(self) -> bool:
        """Whether every element is finite."""
        return abs(self.smallest) < float("inf") and abs(self.largest) < float("inf")

    @property
    def shows(self) -> str:
        """The kind of non-finite element: `NaN`, `inf` or `−inf`."""
        return "NaN" if self.has_nan else "inf" if self.largest == float("inf") else "−inf"


def is_measurable(tensor: Tensor) -> bool:
    """Whether a tensor has elements that may be non-finite."""
    return (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_meta and tensor.numel() > 0


@torch.no_grad()
def extremes(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """The smallest and the largest element of a tensor, on its device; NaN if an element is, None without elements.

    They take one reduction, which does not wait for the device. Complex numbers are taken as real and imaginary parts.
    """
    if tensor._is_zerotensor():
        # Forward-mode differentiation has such zeros, which lie in no memory.
        zero = torch.zeros((), dtype=torch.float32, device=tensor.device)
        return zero, zero
    if tensor.layout is not torch.strided:
        tensor = tensor._values() if tensor.layout is torch.sparse_coo else tensor.values()
        if not tensor.numel():
            return None
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    if tensor.dtype.itemsize == 1:
        tensor = tensor.float()
    low, high = torch.aminmax(tensor)
    return low, high


def settle(values: Iterable[Value]) -> None:
    """Copy the properties of values to the host, in one transfer per device."""
    waiting: dict[torch.device, list[Value]] = {}
    for value in values:
        if value.extremes is not None:
            waiting.setdefault(value.extremes[0].device, []).append(value)
    for device, together in waiting.items():
        wide = torch.float32 if device.type == "mps" else torch.float64
        numbers = [number.to(wide) for value in together for number in value.extremes or ()]
        found = torch.stack(numbers).tolist()
        for value, smallest, largest in zip(together, found[::2], found[1::2], strict=True):
            value.smallest, value.largest, value.extremes = smallest, largest, None
