"""The parts of a network's name: depths that a family has, and options with their types and ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradlab.errors import UsageError

Value = str | int | float
"""What an option says: one of its words, or a number; True for an option of a single word."""

_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[0-9]{1,9}")
_END = r"(?=-[A-Za-z]|$)"

Unknown = Callable[[str], UsageError]
"""Makes the error about a name that cannot be read, from the reason."""


@dataclass(frozen=True)
class Depths:
    """The depths that the networks of a family have.

    Attributes:
        step: Layers of one more block in every stage.
        plus: Layers outside the stages.
        choices: All depths, where they follow no rule.
        most: The deepest network that is built.
    """

    step: int = 1
    plus: int = 0
    choices: tuple[int, ...] = ()
    most: int = 10_000

    def __str__(self) -> str:
        """The rule in words: `6n + 2`."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.step}n + {self.plus}" if self.plus else "at least 1"

    def check(self, family: str, depth: int, name: str) -> None:
        """Refuse a depth that the family does not have.

        Raises:
            UsageError: With the rule, and the nearest depths that there are.
        """
        if self.choices:
            if depth not in self.choices:
                raise UsageError(f"{name}: {family} has the depths {self}, not {depth}")
            return
        least = self.step + self.plus
        if depth > self.most:
            raise UsageError(f"{name}: networks go to {self.most:,} layers here")
        if depth < least and self.step == 1:
            raise UsageError(f"{name}: the depth is a whole number, at least {least}")
        if depth < least or (depth - self.plus) % self.step:
            lower = max(least, depth - (depth - self.plus) % self.step)
            nearest = f"{family}{lower} and {family}{lower + self.step}"
            raise UsageError(f"{name}: {family} has {self} layers; the nearest are {nearest}")


@dataclass(frozen=True)
class Option:
    """One option of a family's names, such as `-preact`, `-width=32` or `-k12`.

    Attributes:
        field: The field of an architecture that it sets.
        label: What stands before the value: `width=`; nothing before a bare word.
        words: The values that there are, for an option of words; otherwise it takes a number.
        says: What it is and its range, in words, for the error about a value that is none: `the width is a
            number of channels, at least 1`.
        whole: Whether the number is a whole one.
        low: The least number.
        above: Whether the number has to be above `low`.
        high: The largest number.
        default: The value that a name leaves out.
    """

    field: str
    label: str = ""
    words: tuple[str, ...] = ()
    says: str = ""
    whole: bool = False
    low: float = 0.0
    above: bool = False
    high: float = math.inf
    default: Value | None = None

    def __str__(self) -> str:
        """As it stands in a grammar: `[-A|-B|-C]`, `[-width=N]`, `[-beta=X]`."""
        if not self.words:
            return f"[-{self.label}{'N' if self.whole else 'X'}]"
        return f"[-{self.label}{'|'.join(self.words)}]" if self.label else f"[-{'|-'.join(self.words)}]"

    @property
    def shown(self) -> str:
        """What it is called in a sentence."""
        return self.label.removesuffix("=") or "|".join(self.words)

    @property
    def names(self) -> tuple[str, ...]:
        """The words by which it is known in a name."""
        return (self.shown,) if self.label else self.words

    def find(self, rest: str) -> re.Match[str] | None:
        """The option at the start of what is left of a name; its value is the group `value`."""
        if self.words and not self.label:
            values = "|".join(sorted(map(re.escape, self.words), key=len, reverse=True))
        else:
            values = r"[^=]*?" if self.label.endswith("=") else r"[0-9][^=]*?"
        return re.match(f"-{re.escape(self.label)}(?P<value>{values}){_END}", rest)

    def read(self, text: str, name: str, unknown: Unknown) -> Value:
        """The value of the option.

        Args:
            text: How it is written.
            name: The whole name, for the error.
            unknown: Makes the error for a text that is no value at all.

        Raises:
            UsageError: For a text that is no value, and for a number out of range.
        """
        if self.words:
            if text not in self.words:
                raise UsageError(f"{name}: {self.says}, not {text!r}")
            return text if self.label or len(self.words) > 1 else True
        unsigned = text.removeprefix("-") if self.low < 0 else text
        if not (_WHOLE if self.whole else _NUMBER).fullmatch(unsigned):
            raise unknown(f"{self.says}, not {text!r}")
        value = int(text) if self.whole else float(text)
        if not self.low <= value <= self.high or value == math.inf or (self.above and value == self.low):
            raise UsageError(f"{name}: {self.says}, not {text}")
        return value


def read_options(
    name: str, rest: str, options: Sequence[Option], unknown: Callable[[str, str], UsageError], *, ordered: bool
) -> dict[str, Value]:
    """Read the options behind a family and its depth.

    Args:
        name: The whole name, for errors.
        rest: What is left of it: empty, or a hyphen and options with hyphens between them.
        options: Those of the family.
        unknown: Makes the error from the reason, or from what is left of the name where that begins with no option.
        ordered: Whether they have to stand in this order.

    Returns:
        The values by field.

    Raises:
        UsageError: For an option that there is not, a value out of range, or an option in a wrong place.
    """
    values: dict[str, Value] = {}
    texts: dict[int, str] = {}
    left, start = rest, name.removesuffix(rest) if rest else name
    while left:
        found = next(((place, match) for place, option in enumerate(options) if (match := option.find(left))), None)
        if found is None:
            raise unknown("", left)
        place, match = found
        option = options[place]
        if place in texts:
            raise UsageError(f"{name}: {option.shown} is given twice")
        value = option.read(match["value"], name, lambda reason: unknown(reason, ""))
        if value != option.default:
            values[option.field] = value
        texts[place], left = match[0], left[match.end() :]
    if ordered and list(texts) != sorted(texts):
        raise unknown(
            f"its options stand in another order, {start}{''.join(texts[place] for place in sorted(texts))}", ""
        )
    return values


def write_number(label: str, value: float, default: float | None) -> str:
    """A number as it stands in a canonical name; nothing where it is the default."""
    return "" if value == default else f"-{label}{value!r}".removesuffix(".0")


def written(values: Mapping[str, Value], options: Sequence[Option]) -> str:
    """Options as they stand in a canonical name, in the order of the family's options."""
    parts = []
    for option in options:
        value = values.get(option.field)
        if value is True:
            parts.append(f"-{option.words[0]}")
        elif isinstance(value, str):
            parts.append(f"-{option.label}{value}")
        elif value is not None:
            parts.append(write_number(option.label, value, None))
    return "".join(parts)
