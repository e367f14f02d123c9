"""Parsers of command-line text into the values of a request."""

from collections.abc import Iterable


def items(texts: Iterable[str]) -> list[str]:
    """The items of a list: comma-separated, repeated, or both."""
    return [item.strip() for text in texts for item in text.split(",") if item.strip()]


def whole_numbers(texts: Iterable[str]) -> list[int]:
    """The whole numbers of a list, comma-separated, repeated, or both.

    Raises:
        ValueError: If an item is not a whole number; the message is a sentence.
    """
    listed = items(texts)
    if wrong := next((item for item in listed if not item.isdecimal() or len(item) > 9), None):
        raise ValueError(f"{wrong!r} is not one of the whole numbers from 0 to 999,999,999")
    return [int(item) for item in listed]


def interval(text: str) -> tuple[float, float]:
    """The two numbers of FROM:TO.

    Raises:
        ValueError: If the text has another form; the message is a sentence.
    """
    try:
        first, last = (float(part) for part in text.split(":"))
    except ValueError:
        raise ValueError(f"{text!r} is not FROM:TO, as -2:2 is") from None
    return first, last


def normalizations(texts: Iterable[str]) -> list[str] | None:
    """The normalizations of a list, where commas between numbers do not separate items; None for an empty list."""
    from gradlab.normalization import split_specs  # loads torch

    return split_specs(list(texts)) or None
