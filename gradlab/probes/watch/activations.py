"""Activations as functions of torch compute them, in modules and outside: where they are 0, where saturated."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradlab.probes.hooks import in_backward
from gradlab.probes.outputs import plain
from gradlab.probes.split_signals import SplitSignals
from gradlab.probes.watch.self_gates import SelfGates
from gradlab.stats.activations import active_counts, active_units, one_sided_rows, saturated_count
from gradlab.stats.precision import widest
from gradlab.stats.workspace import Workspace


class Range(NamedTuple):
    """The range of a bounded activation; where `below` is off, its lower end is no saturation."""

    low: float
    high: float
    below: bool = True


UNBOUNDED = {"relu", "threshold", "leaky_relu", "rrelu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish"}
UNBOUNDED |= {"hardswish", "hardshrink", "softshrink", "softplus", "logsigmoid", "glu"}
BOUNDED = {
    "sigmoid": Range(0.0, 1.0),
    "hardsigmoid": Range(0.0, 1.0),
    "tanh": Range(-1.0, 1.0),
    "softsign": Range(-1.0, 1.0),
    "relu6": Range(0.0, 6.0, below=False),
}
RECTIFIED = {"relu", "relu6", "sigmoid", "hardsigmoid"}
"""Those without negative values."""

CLIPPING = {"hardtanh": (-1.0, 1.0), "clamp": (None, None), "clip": (None, None), "clamp_min": (None, None)}
"""Functions that are told their bounds, and what these are otherwise."""

NAMES = {*UNBOUNDED, *BOUNDED, *CLIPPING, "softmax"}


@dataclass
class ActivationSums:
    """What is summed of one activation.

    Attributes:
        active: How often each unit is not 0, of each pass; empty for a softmax.
        elements: Elements in all.
        saturated: How many values are saturated, of each pass; empty where there are no bounds.
        rated: Values that may be saturated, in all.
        gates: Whether what it is computed from is multiplied by it; see `SelfGates`.
    """

    active: list[Tensor] = field(default_factory=list)
    elements: int = 0
    saturated: list[Tensor] = field(default_factory=list)
    rated: int = 0
    gates: bool = False

    def add(self, name: str, output: Tensor, unit_dim: int, bounds: Range | int | None, room: Workspace) -> None:
        """Take in the output of an activation; nothing of it is kept.

        Args:
            name: The name of the function.
            output: The output, real.
            unit_dim: The dimension of its units.
            bounds: Its range, or the dimension of a softmax, or None.
            room: Memory for intermediate results.
        """
        if isinstance(bounds, int):
            self.saturated.append(one_sided_rows(output, bounds))
            self.rated += output.numel() // max(1, output.shape[bounds])
            return
        self.active.append(active_counts(output, unit_dim, rectified=name in RECTIFIED, room=room))
        self.elements += output.numel()
        if bounds is not None:
            self.saturated.append(saturated_count(output, bounds.low, bounds.high, below=bounds.below))
            self.rated += output.numel()

    def join(self, other: ActivationSums) -> None:
        """Add what another pass has shown."""
        self.active += other.active
        self.saturated += other.saturated
        self.elements += other.elements
        self.rated += other.rated
        self.gates |= other.gates

    @property
    def unit_count(self) -> int | None:
        """How many units there are; None where passes differ in that, so that none can be followed through them."""
        counts = {len(counts) for counts in self.active}
        return counts.pop() if len(counts) == 1 else None

    def units(self) -> Tensor:
        """How often each unit is not 0 in all passes together; those of each pass where these differ in units."""
        active = [counts.to(self.active[0].device) for counts in self.active]
        if len(active) == 1:
            return active[0]
        return torch.cat(active) if self.unit_count is None else torch.stack(active).sum(0)

    def saturated_share(self) -> Tensor:
        """The share of saturated values, shape ()."""
        saturated = torch.stack([count.to(self.saturated[0].device) for count in self.saturated]).sum()
        return saturated.to(widest(saturated.device)) / self.rated


class UnitActivity(ActivationSums):
    """Which units of one activation were not 0 for some input, over any number of passes."""

    def add(self, name: str, output: Tensor, unit_dim: int, bounds: Range | int | None, room: Workspace) -> None:
        """See `ActivationSums`; of a softmax nothing is taken in."""
        if not isinstance(bounds, int):
            self.active.append(active_units(output, unit_dim, rectified=name in RECTIFIED))
            self.elements += output.numel()

    def join(self, other: ActivationSums) -> None:
        """Add what another pass has shown, in the same memory."""
        super().join(other)
        if self.unit_count is not None:
            self.active = [torch.stack([units.to(self.active[0]) for units in self.active]).amax(0)]


@functools.cache
def activation_name(function: Callable[..., Any]) -> str | None:
    """Return the name of an activation function, without the underscore of its in-place form; None for any other."""
    name: str = getattr(function, "__name__", "").rstrip("_")
    return name if name in NAMES else None


class ActivationMode(TorchFunctionMode):
    """Tells of every activation that a function of torch computes.

    Args:
        before: Called with an activation's input, before it may be overwritten; gives whatever `after` is to get.
        after: Called with that, the function's name, its output and its bounds; gives what is summed of it.
        signals: The tensors that are parts of what ranks have together.
    """

    def __init__(
        self,
        before: Callable[[Tensor], object],
        after: Callable[[object, str, Tensor, Range | int | None], ActivationSums],
        signals: SplitSignals,
    ) -> None:
        super().__init__()
        self._before, self._after, self._signals = before, after, signals
        self.gates = SelfGates()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call any function of torch."""
        kwargs = kwargs or {}
        name = activation_name(func)
        if name is None or in_backward():
            return self._followed(func, args, kwargs)
        source = args[0] if args else kwargs.get("input")
        if not isinstance(source, Tensor) or not source.is_floating_point():
            return func(*args, **kwargs)
        known = self._before(source)
        output = self._followed(func, args, kwargs)
        clipped = clip_bounds(name, args, kwargs) if name in CLIPPING else None
        if isinstance(output, Tensor) and (name not in CLIPPING or clipped is not None):
            bounds: Range | int | None = BOUNDED.get(name) if clipped is None else clipped[0]
            if name == "softmax":
                bounds = softmax_dim(args, kwargs)
            if name != "softmax" or bounds is not None:
                with torch.no_grad():
                    sums = self._after(known, name, plain(output), bounds)
                if isinstance(bounds, Range):
                    self.gates.add(output, sums)
        return output

    def _followed(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a function, whose output is a part if an argument is."""
        self.gates.look(func, args)
        output = func(*args, **kwargs)
        if self._signals:
            self._signals.follow((*args, *kwargs.values()), output)
        return output


def clip_bounds(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Range | None] | None:
    """The range that values are clipped to, None within where one end is open; None where it is no activation.

    Clipping is one where it rectifies (at 0 from below), or has two ends.
    """
    low, high = CLIPPING[name]
    first = "min_val" if name == "hardtanh" else "min"
    given = [*args[1:3], *[None] * (2 - len(args[1:3]))]
    low = kwargs.get(first, low if given[0] is None else given[0])
    high = kwargs.get(first.replace("min", "max"), high if given[1] is None else given[1])
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return None
    if low is not None and high is not None:
        # At 0 it rectifies: units that are off are told apart from saturated ones.
        return (Range(float(low), float(high), below=low != 0),) if low < high else None
    return (None,) if low == 0 else None


def softmax_dim(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """Along which dimension a softmax is taken; None where the call leaves that to torch."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    return dim if isinstance(dim, int) else None
