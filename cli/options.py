"""The options that several commands share, and those made from the request of a measurement."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from gradlab.errors import UsageError
from gradlab.experiments.networks import networks
from gradlab.experiments.request import option_of
from gradlab.experiments.text import items


def reading(read: Callable[[Any], Any], otherwise: Any = None) -> Callable[[Any], Any]:
    """A callback of an option that converts its text to a value, with a default if none was given."""

    def value(given: Any) -> Any:
        if not given:
            return otherwise
        try:
            read_from = read(given)
        except ValueError as reason:
            raise typer.BadParameter(str(reason)) from None
        if not read_from:
            raise typer.BadParameter(f"{','.join(given)!r} names nothing")
        return read_from

    return value


def some_of(choices: Sequence[str]) -> Callable[[Iterable[str]], list[str]]:
    """A parser of a list of choices."""

    def read(texts: Iterable[str]) -> list[str]:
        listed = list(dict.fromkeys(items(texts)))
        if wrong := next((item for item in listed if item not in choices), None):
            raise ValueError(f"{wrong!r} is not one of {', '.join(map(repr, choices))}.")
        return listed

    return read


FigureFormat = Literal["png", "pdf", "svg"]
TableFormat = Literal["csv", "latex", "markdown"]

Device = Annotated[str, typer.Option(help="The device: auto, cpu, cuda, cuda:1 or mps.", metavar="DEVICE")]
LayersTable = Annotated[bool, typer.Option("--layers-table", help="Also print one row per layer.")]
Out = Annotated[Path, typer.Option(help="The folder for the files.", metavar="DIR")]
Format = Annotated[
    list[str] | None,
    typer.Option(
        help="The formats of figures: png, pdf, svg. Default: png,pdf.",
        metavar="LIST",
        callback=reading(some_of(get_args(FigureFormat)), ["png", "pdf"]),
    ),
]
Table = Annotated[
    list[str] | None,
    typer.Option(
        help="Print the table as csv, latex (booktabs) or markdown, and also write it to a file.",
        metavar="LIST",
        callback=reading(some_of(get_args(TableFormat))),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only errors; the files are still written.")]


Networks = Annotated[
    list[str] | None,
    typer.Argument(
        help="Networks, in the same way as --model.", metavar="NETWORK", show_default=False, callback=reading(networks)
    ),
]
NETWORKS = inspect.Parameter("networks", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Networks)

ONE_NETWORK = inspect.Parameter(
    "network",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Argument(help="The network, in the same way as --model.", metavar="NETWORK", show_default=False),
    ],
)


def with_networks(values: dict[str, Any]) -> dict[str, Any]:
    """The values of options, with the networks named before them among those of --model."""
    networks = [*(values.pop("networks", None) or []), *(values.get("models") or [])]
    return values | {"models": networks or None}


def with_one_network(values: dict[str, Any], name: str, command: str) -> dict[str, Any]:
    """The values of options, with the network named before them as the value of its option.

    Args:
        values: The values by name, with `network`, which is named without an option.
        name: The name of the value of --model.
        command: The name of the command.

    Raises:
        UsageError: If no network is named, or two are.
    """
    network, option = values.pop("network"), values[name]
    if (network is None) == (option is None):
        got = "none" if option is None else f"two, {network} and {option}"
        raise UsageError(f"name one network, as gradlab {command} NETWORK or with --model; got {got}")
    one = network or option
    if isinstance(one, str) and "/" not in one and len(networks([one])) > 1:
        raise UsageError(f"gradlab {command} takes one network at a time, not {one}")
    return values | {name: one}


def with_options(network: str | None = None, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command one option per field of the dataclasses among its parameters, and call it with these dataclasses.

    Args:
        network: The name of a field or parameter whose value may be given without --model, as a word of its own.
        **defaults: Defaults that differ from those of the fields, by their names.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command).parameters
        made: dict[str, Any] = {name: p.annotation for name, p in own.items() if is_dataclass(p.annotation)}
        parameters: list[inspect.Parameter] = []
        named = any(known.name == "models" for kind in made.values() for known in fields(kind))
        if named:
            # Networks are named with the option or without it.
            parameters.append(NETWORKS)
            defaults.setdefault("models", None)
        if network:
            parameters.append(ONE_NETWORK)
            defaults[network] = None
        for name, p in own.items():
            parameters += options_of(made[name], **defaults) if name in made else [p.replace(kind=p.KEYWORD_ONLY)]

        def run(**values: Any) -> None:
            if network:
                values = with_one_network(values, network, command.__name__)
            if named and (values := with_networks(values))["models"] is None:
                raise UsageError(f"name at least one network, such as gradlab {command.__name__} resnet20 (or --model)")
            asked = {name: kind(**given(kind, values)) for name, kind in made.items()}
            command(**asked, **{name: values[name] for name in own if name not in made})

        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return with_parameters(run, parameters)

    return decorate


def given(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the fields of a dataclass that were given; the others have their defaults."""
    return {known.name: values[known.name] for known in fields(kind) if values.get(known.name) is not None}


def options_of(kind: type, **defaults: Any) -> list[inspect.Parameter]:
    """The parameters of a command that correspond to the fields of a dataclass."""
    return [option(known, defaults.get(known.name, MISSING)) for known in fields(kind)]


def option(known: "Field[Any]", default: Any = MISSING, shown: bool | str = True) -> inspect.Parameter:
    """The parameter of a command that corresponds to a field of a dataclass.

    Args:
        known: The field.
        default: A default that replaces the field's.
        shown: The text of the default in help, or whether help shows it.
    """
    default = known.default if default is MISSING else default
    kind: Any = known.type
    if "option" in known.metadata:
        said = option_of(known)
        if said.read and default is not MISSING:
            # A field that is parsed from text gets its default when the request is made.
            default = None
        callback = reading(said.read) if said.read else None
        info = typer.Option(
            *names_of(known), help=said.help, metavar=said.metavar, callback=callback, show_default=shown
        )
        kind = said.typed or kind
        kind = Annotated[kind | None if default is None else kind, info]
    default = inspect.Parameter.empty if default is MISSING else default
    return inspect.Parameter(known.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def names_of(known: "Field[Any]") -> tuple[str, ...]:
    """The names of the option for a field of a request."""
    return option_of(known).names or (f"--{known.name.replace('_', '-')}",)


def with_parameters(run: Callable[..., None], parameters: Iterable[inspect.Parameter]) -> Callable[..., None]:
    """A function of arbitrary keyword arguments, with these parameters as its signature for the command line."""
    listed = list(parameters)
    run.__annotations__ = {p.name: p.annotation for p in listed}
    run.__signature__ = inspect.Signature(listed)  # type: ignore[attr-defined]
    return run
