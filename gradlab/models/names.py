"""The grammar of our networks' names: a family, a depth and options, as in `resnet110-preact-width=32`."""

from __future__ import annotations

import difflib
import re
from typing import Any

from gradlab.errors import UsageError
from gradlab.models.built import Family
from gradlab.models.description import NetworkDescription
from gradlab.models.detectors import OF_VGG
from gradlab.models.external import is_external
from gradlab.models.families import FAMILIES
from gradlab.models.grammar import read_options
from gradlab.models.mlp.architecture import MLPArchitecture

_SPLIT = re.compile(r"(?P<prefix>(?:imagenet/|webtext/)?[a-z]+)(?P<depth>[0-9]{1,9})(?P<rest>.*)", re.DOTALL)


def parse_name(name: str) -> Any:
    """Parse the name of one of our own networks.

    Returns:
        The network, which is a `NamedNetwork`: an `Architecture` for residual and plain networks, an
        `MLPArchitecture` for fully connected ones, and a `BuiltNetwork` for all others.

    Raises:
        UsageError: If the name is unknown, if the family does not have an option, or if a depth or a value is out of
            range. The message gives the nearest names, the family's grammar or the range.
    """
    match = _SPLIT.fullmatch(name)
    by_prefix = {family.prefix: family for family in FAMILIES}
    family = by_prefix.get(match["prefix"] if match else name)
    if match is None or family is None:
        raise UsageError(f"unknown network {name!r}: {_hint(name, family, match)}")

    def unknown(reason: str, left: str) -> UsageError:
        for word, refusal in (family.refusals or {}).items():
            if re.match(f"-{re.escape(word)}(?=[-=]|$)", left):
                return UsageError(f"{name}: {refusal.format(word=word)}")
        if left:
            said = left.removeprefix("-").partition("=")[0]
            near = difflib.get_close_matches(said, _words(family), n=1, cutoff=0.6)
            meant = f"; did you mean {name.replace(f'-{said}', f'-{near[0]}')}?" if near and near != [said] else ""
            reason = f"its options are those of {family.grammar}, not {said}{meant}"
        return UsageError(f"unknown network {name!r}: {reason}")

    values = read_options(name, match["rest"], family.options, unknown, ordered=family.ordered)
    return family.read(name, int(match["depth"]), values)


def describe(name: str) -> NetworkDescription:
    """Describe a network by its family, depth, kind, unit, normalization, width and options, as plain values.

    Args:
        name: The name of a network without weights. That of an external network determines only its package.

    Raises:
        UsageError: If the name is unknown.
    """
    if is_external(name):
        package = name.partition("/")[0] if "/" in name and ":" not in name else "function"
        package = "fasterrcnn" if name == OF_VGG else package
        return NetworkDescription(name=name, family=package)
    description: NetworkDescription = parse_name(name).description
    return description


def is_mlp(name: str) -> bool:
    """Return whether a name refers to a fully connected net."""
    match = _SPLIT.fullmatch(name)
    return (match["prefix"] if match else name) in ("mlp", "resmlp")


def parse_mlp(name: str) -> MLPArchitecture:
    """Parse the name of a fully connected net.

    Raises:
        UsageError: If the name is unknown, or refers to another kind of network.
    """
    found = parse_name(name)
    if not isinstance(found, MLPArchitecture):
        raise UsageError(f"{name} is not a fully connected net, such as mlp50, resmlp50-beta=0.1 or mlp50-ll")
    return found


def network_names() -> list[str]:
    """List the networks that `gradlab models` shows: the papers' networks, then one name per variant."""
    of_papers = [name for family in FAMILIES for name in family.listed]
    return of_papers + [name for family in FAMILIES for name in family.variants]


def _hint(name: str, family: Family | None, match: re.Match[str] | None) -> str:
    """Return a hint about a name that has no known family or no depth."""
    if family is not None:
        return f"a name has a depth, as {family.listed[0]}; its names are {family.grammar}"
    if match and (forms := [f for f in FAMILIES if f.prefix == f"imagenet/{match['prefix']}"]):
        others = f"{forms[0].prefix}{match['depth']} or torchvision/{match['prefix']}{match['depth']}"
        return f"it has a form for ImageNet alone: give {others}"
    near = _near(name)
    return f"did you mean {near}?" if near else "`gradlab models` lists the names"


def _words(family: Family) -> list[str]:
    return [word for option in family.options for word in option.names]


def _near(name: str) -> str:
    return " or ".join(difflib.get_close_matches(name.lower(), network_names(), n=3, cutoff=0.5))
