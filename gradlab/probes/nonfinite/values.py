"""What a pass leaves behind for the search: its operations, and of each tensor whether it is finite."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Place:
    """Where in a model something happens.

    Attributes:
        layer: Qualified name of the innermost module that runs, `""` for the model itself, None outside of it.
        kind: Its class.
        call: How often it has been called in this pass, this time included.
    """

    layer: str | None = None
    kind: str = ""
    call: int = 1


@dataclass(frozen=True)
class Source:
    """Whose a tensor is that no operation of the pass has made.

    Attributes:
        kind: `weight`, `buffer` or `input`.
        name: Its name; of an input where it lies in the batch, or empty.
    """

    kind: str
    name: str = ""


@dataclass(eq=False, slots=True)
class Operation:
    """One operation of a pass.

    Attributes:
        name: In users' words: `matmul`, `softmax`; in a backward pass that of the forward operation.
        function: Its name in ATen.
        stage: `forward`, `backward` or `update`.
        place: The module.
        line: File and line of the code that called it.
        inputs: The values that it took.
        constant: Whether it was given an infinity as a number.
        passes: Whether its output is its input seen otherwise, as a view, a copy or another type.
        zero: Whether what it divides by, or takes a power of, holds 0; on its device.
        count: Elements of its first input.
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
    """What a tensor held at one time.

    Attributes:
        number: Values are numbered as they come about.
        dtype: Of the tensor.
        maker: The operation that made it; None where it came from outside, or is a part of what several have made.
        writers: The values that were written into the memory of which this is read.
        source: Whose the tensor is that it came from.
        extremes: Smallest and largest element, (2,) or none for what has no elements; on its device.
        unset: Whether it is memory that nobody has written to.
        smallest: Of its elements, NaN where one of them is; known once it is settled.
        largest: Likewise.
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
        """The non-finite element in a word."""
        return "NaN" if self.has_nan else "inf" if self.largest == float("inf") else "−inf"


def is_measurable(tensor: Tensor) -> bool:
    """Whether a tensor holds elements that may not be finite."""
    return (tensor.is_floating_point() or tensor.is_complex()) and not tensor.is_meta and tensor.numel() > 0


@torch.no_grad()
def extremes(tensor: Tensor) -> tuple[Tensor, Tensor] | None:
    """Smallest and largest element of a tensor, on its device; NaN where one is, None where it has none.

    One reduction without a wait for the device. Of complex numbers it takes real and imaginary parts.
    """
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
    """Bring what is known of values to the host, in one transfer a device."""
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
