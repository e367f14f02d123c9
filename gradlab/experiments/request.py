"""Requests of measurements: defined once for Python and the command line, checked once and recorded once.

A request is a dataclass with one field for every argument of the measurement's function, with the same name and
default; `asked` adds its description on the command line. Importing this module does not load torch.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Self, Union, get_args, get_origin

from gradlab.data.datasets import data_sets_help
from gradlab.errors import UsageError
from gradlab.experiments import text
from gradlab.experiments.networks import networks

if TYPE_CHECKING:
    from torch import nn

    from gradlab.probes.selection import Selection

BatchNormMode = Literal["eval", "batch"]
Dtype = Literal["float32", "float64"]
NormGrad = Literal["frozen", "full"]
MOST_SEED = 2**63 - 1
"""The largest seed of torch's generators."""
MOST = 10_000
"""The largest size of a network, and number of networks, points or random choices, of each of which much is made."""
Progress = Callable[[str, int, int], None]
"""A function called with a label, the amount done and the total."""


@dataclass(frozen=True)
class Option:
    """The command-line option of a field, and the range of its numbers.

    Attributes:
        help: The help text, a sentence.
        metavar: The placeholder for the value in help.
        names: The names of the option, if they differ from the field's name with dashes.
        least: The smallest whole number allowed.
        most: The largest whole number allowed.
        typed: The type read from the command line, if it differs from the field's type: `str` or `list[str]`.
        read: The function that converts this text to the value; it raises ValueError with a sentence.
    """

    help: str
    metavar: str | None = None
    names: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    typed: Any = None
    read: Callable[[Any], Any] | None = None

    def check(self, name: str, kind: Any, value: Any) -> None:
        """Check a value against its choices and its range.

        Raises:
            UsageError: If the value is not one of the choices, or out of range.
        """
        choices = literals(kind)
        if choices and value is not None and value not in choices:
            raise UsageError(f"{name} is {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}")
        for number in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
            self._check_range(name.replace("_", " "), number)

    def _check_range(self, name: str, number: Any) -> None:
        if number is None or self.least is None:
            return
        inside = isinstance(number, Integral) and self.least <= int(number) <= (self.most or int(number))
        if not inside:
            upto = f"at least {self.least:,}" if self.most is None else f"from {self.least:,} to {self.most:,}"
            raise UsageError(f"{name} must be {upto}; got {number}")


def asked(default: Any, help: str, metavar: str | None = None, *names: str, **more: Any) -> Any:
    """A field of a request; `more` contains other attributes of its `Option`."""
    return field(default=default, metadata={"option": Option(help, metavar, names, **more)})


def again(base: type, name: str, default: Any, **changes: Any) -> Any:
    """A field of a base class with another default, or with other attributes of its `Option`."""
    option = option_of(next(known for known in fields(base) if known.name == name))
    return field(default=default, metadata={"option": dataclasses.replace(option, **changes)})


def option_of(of: "dataclasses.Field[Any]") -> Option:
    """The command-line option of a field."""
    option: Option = of.metadata["option"]
    return option


def literals(kind: Any) -> tuple[str, ...]:
    """The values of a `Literal`, alone or in a union with None; empty for another type."""
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(value for part in parts if get_origin(part) is Literal for value in get_args(part))


@dataclass(frozen=True, kw_only=True)
class Request:
    """The request of one measurement."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any]) -> Self:
        """Make the request from the arguments of a function, by their names."""
        return cls(**{known.name: arguments[known.name] for known in fields(cls)})

    def __post_init__(self) -> None:
        for known in fields(self):
            option_of(known).check(known.name, known.type, getattr(self, known.name))

    def arguments(self) -> dict[str, Any]:
        """The arguments of the measurement's function."""
        return {known.name: getattr(self, known.name) for known in fields(self)}

    def options(self) -> dict[str, Any]:
        """Every field as a plain value, for the record."""
        return {name: _plain(value) for name, value in self.arguments().items()}


def _plain(value: Any) -> Any:
    """A value for JSON: a module becomes the name of its class, other objects their description."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    return type(value).__name__ if hasattr(value, "named_modules") else str(value)


@dataclass(frozen=True, kw_only=True)
class NetworksRequest(Request):
    """The request of a measurement of networks on data."""

    models: "Sequence[str | nn.Module] | str | nn.Module" = asked(
        dataclasses.MISSING,
        "Networks, NAME[@WEIGHTS]; comma-separated or repeated.",
        "LIST",
        "--model",
        "-m",
        typed=list[str],
        read=networks,
    )
    data: str = asked("cifar10-sample", f"The data: {data_sets_help()}.", "DATA")
    weights: str | None = asked(
        None, "The weights of networks that name none: init, init:SEED, trained, hub, or a path.", "WEIGHTS"
    )
    images: int | None = asked(None, "The number of images to take from the beginning of the data set.", "N")
    batch_size: int = asked(100, "The number of images in a batch.", "N", least=1)
    device: str = asked("auto", "The device: auto, cpu, cuda, cuda:1 or mps.", "DEVICE")
    seed: int = asked(0, "The seed of initial weights and of noise.", "N", least=0, most=MOST_SEED)
    bn: BatchNormMode | None = asked(
        None,
        "The statistics for batch normalization: eval takes the running ones (the default for trained weights), batch "
        "those of each batch (the default for init).",
    )
    normalize: "str | Sequence[str] | None" = asked(
        None,
        "imagenet, cifar10, mean-image, none, or MEAN/STD as numbers; a suffix `:255` keeps the range 0 to 255. One "
        "for all networks or one for each. Default: the normalization with which the weights were trained.",
        "SPEC",
        typed=list[str],
        read=text.normalizations,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.listed_models():
            raise UsageError("name at least one network (--model)")

    def listed_models(self) -> "list[str | nn.Module]":
        """The networks as a list, even if there is only one."""
        single = isinstance(self.models, str) or not isinstance(self.models, Sequence)
        listed: list[Any] = [self.models] if single else list(self.models)  # type: ignore[arg-type]
        if wrong := [type(one).__name__ for one in listed if not isinstance(one, str) and not hasattr(one, "modules")]:
            raise UsageError(f"a network is a name or a torch.nn.Module, not {wrong[0]}")
        return listed

    def options(self) -> dict[str, Any]:
        """Every field as a plain value, for the record, the networks as a list."""
        return {**super().options(), "models": _plain(self.listed_models())}


@dataclass(frozen=True, kw_only=True)
class LayersRequest(NetworksRequest):
    """The request of a measurement of layers."""

    layers: "Selection" = asked(
        None,
        "The layers to measure, a glob ('layer3.*'). Default: convolutions and linear layers, without the projections "
        "of shortcuts.",
        "GLOB",
        typed=str | None,
    )
