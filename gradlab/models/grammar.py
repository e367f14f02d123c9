"""The parts of a network's name: the depths of a family, and options with their types and ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from gradlab.errors import UsageError

Value = str | int | float
"""The value of an option: one of its words or a number, and True for an option with a single word."""

_NUMBER = re.compile(r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_WHOLE = re.compile(r"[0-9]{1,9}")
_END = r"(?=-[A-Za-z]|$)"

Unknown = Callable[[str], UsageError]
"""A function from the reason why a name cannot be read to the error."""


@dataclass(frozen=True)
class Depths:
    """The depths of the networks of a family.

    Attributes:
        step: The number of layers that one more block in every stage adds.
        plus: The number of layers outside the stages.
        choices: The list of depths, if they follow no rule.
        most: The largest depth that is built.
    """

    step: int = 1
    plus: int = 0
    choices: tuple[int, ...] = ()
    most: int = 10_000

    def __str__(self) -> str:
        """Return the rule in words, such as `6n + 2`."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.step}n + {self.plus}" if self.plus else "at least 1"

    def check(self, family: str, depth: int, name: str) -> None:
        """Check that the family has a depth.

        Raises:
            UsageError: If it does not. The message states the rule and the nearest valid depths.
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
            nearest = " and ".join(name.replace(str(depth), str(near), 1) for near in (lower, lower + self.step))
            raise UsageError(f"{name}: {family} has {self} layers; the nearest are {nearest}")


@dataclass(frozen=True)
class Option:
    """One option of a family's names, such as `-preact`, `-width=32` or `-k12`.

    Attributes:
        field: The field of an architecture that the option sets.
        label: The text before the value, such as `width=`, empty for an option that is a bare word.
        words: The possible values of an option that takes words; otherwise it takes a number.
        says: The meaning and range in words, for the error about an invalid value, such as `the width is a number of
            channels, at least 1`.
        whole: Whether the number must be an integer.
        low: The smallest value.
        above: Whether the value must be strictly above `low`.
        high: The largest value.
        default: The value that canonical names omit.
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
        """Return the option in the notation of grammars: `[-A|-B|-C]`, `[-width=N]`, `[-beta=X]`."""
        if not self.words:
            return f"[-{self.label}{'N' if self.whole else 'X'}]"
        return f"[-{self.label}{'|'.join(self.words)}]" if self.label else f"[-{'|-'.join(self.words)}]"

    @property
    def shown(self) -> str:
        """The name of the option in a sentence."""
        return self.label.removesuffix("=") or "|".join(self.words)

    @property
    def names(self) -> tuple[str, ...]:
        """The words that denote the option in a name."""
        return (self.shown,) if self.label else self.words

    def find(self, rest: str) -> re.Match[str] | None:
        """Match the option at the start of the rest of a name; the group `value` is its value."""
        if self.words and not self.label:
            values = "|".join(sorted(map(re.escape, self.words), key=len, reverse=True))
        else:
            values = r"[^=]*?" if self.label.endswith("=") else r"[0-9][^=]*?"
        return re.match(f"-{re.escape(self.label)}(?P<value>{values}){_END}", rest)

    def read(self, text: str, name: str, unknown: Unknown) -> Value:
        """Parse the value of the option.

        Args:
            text: The value as written.
            name: The whole name, for the error.
            unknown: A function that makes the error for a text that is not a number.

        Raises:
            UsageError: If the text is no valid value, or the number is out of range.
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
    """Parse the options after a family and its depth.

    Args:
        name: The whole name, for errors.
        rest: The part of the name after the depth: empty, or options that are each preceded by a hyphen.
        options: The options of the family.
        unknown: A function that makes the error from the reason, or from the unread rest of the name if it does not
            begin with an option.
        ordered: Whether the options must be given in this order.

    Returns:
        The values by field.

    Raises:
        UsageError: If an option is unknown, repeated or out of order, or a value is out of range.
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
            f"its options are in another order, {start}{''.join(texts[place] for place in sorted(texts))}", ""
        )
    return values


def write_number(label: str, value: float, default: float | None) -> str:
    """Format a number for a canonical name, or return an empty string if it is the default."""
    return "" if value == default else f"-{label}{value!r}".removesuffix(".0")


def written(values: Mapping[str, Value], options: Sequence[Option]) -> str:
    """Format options for a canonical name, in the order of the family's options."""
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
