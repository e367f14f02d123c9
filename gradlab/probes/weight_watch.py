"""An alarm for functions that receive a weight in a pass in which none is looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradlab.probes.functions import tensors_in

Alarm = Callable[[Tensor, str], None]

_alarms: dict[int, list[Alarm]] = {}
"""What is to be told of each parameter that is watched, by its id."""

_ASKING = {"size", "dim", "ndimension", "numel", "nelement", "stride", "is_contiguous", "data_ptr", "element_size"}
_ASKING |= {"is_floating_point", "is_complex", "get_device", "untyped_storage", "storage_offset", "__len__"}
"""Methods that only ask for a property."""


class WatchedParameter(nn.Parameter):
    """The class of a parameter while it is watched: torch hands over to it every function that receives the parameter.

    The class of the object is changed, since the model, its optimizer and its graph all have this object. Parameters
    that a model makes of this class are usual ones.
    """

    def __new__(cls, data: Any = None, requires_grad: bool = True) -> nn.Parameter:  # type: ignore[misc]
        """Make a usual parameter."""
        return nn.Parameter(data, requires_grad)

    @classmethod
    def __torch_function__(  # type: ignore[override]
        cls,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, after the alarm if it may compute something."""
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            name = getattr(func, "__name__", "")
            if name in _ASKING:
                return func(*args, **kwargs)
            if name == "__get__" and not isinstance(owned := func(*args), Tensor):
                return owned
            for value in tensors_in((*args, *kwargs.values())):
                for alarm in tuple(_alarms.get(id(value), ())):
                    alarm(value, name)
            # From the alarm on, a function mode may see what is called here.
            return func(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """Return a copy of the usual class, after the alarm, since the copy may be applied."""
        for alarm in tuple(_alarms.get(id(self), ())):
            alarm(self, "deepcopy")
        with torch._C.DisableTorchFunctionSubclass():
            copied = nn.Parameter(self.detach().clone(memory_format=torch.preserve_format), self.requires_grad)
        memo[id(self)] = copied
        return copied


_CLASSES = {nn.Parameter, WatchedParameter}


class WeightWatch:
    """Sounds an alarm when a function receives one of some parameters.

    Args:
        alarm: What is called with the parameter and the name of the function, before it. It may stop the watch.
    """

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._watched: list[nn.Parameter] = []

    def start(self, tensors: Iterable[Tensor]) -> bool:
        """Watch parameters, and return whether it is possible: others than those of torch's own class are not."""
        self.stop()
        weights = {id(tensor): tensor for tensor in tensors}
        if not {*map(type, weights.values())} <= _CLASSES:
            return False
        for key, weight in weights.items():
            _alarms.setdefault(key, []).append(self._alarm)
            weight.__class__ = WatchedParameter
            self._watched.append(weight)  # type: ignore[arg-type]
        return True

    def stop(self) -> None:
        """Give the parameters their own class again, unless others watch them."""
        watched, self._watched = self._watched, []
        for weight in watched:
            alarms = _alarms[id(weight)]
            alarms.remove(self._alarm)
            if not alarms:
                del _alarms[id(weight)]
                # The model may have given it another class since.
                if type(weight) is WatchedParameter:
                    weight.__class__ = nn.Parameter  # type: ignore[assignment]
