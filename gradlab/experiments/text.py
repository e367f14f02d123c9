"""Parsers of command-line text into the values of a request."""

import os
import re
from collections.abc import Iterable, Iterator


def items(texts: Iterable[str]) -> list[str]:
    """The items of a list: comma-separated, repeated, or both."""
    return [item.strip() for text in texts for item in text.split(",") if item.strip()]


def networks(texts: Iterable[str]) -> list[str]:
    """The networks of a list, where a comma in the path of an existing file does not separate items."""
    return [one for text in texts for one in _networks(text.split(","))]


def _networks(pieces: list[str]) -> Iterator[str]:
    while pieces:
        # The longest beginning whose commas are all in paths of files, or else what comes before the first comma.
        ends = (end for end in range(len(pieces), 1, -1) if _has_files(",".join(pieces[:end]).strip()))
        end = next(ends, 1)
        if one := ",".join(pieces[:end]).strip():
            yield one
        pieces = pieces[end:]


def _has_files(network: str) -> bool:
    """Whether each comma is in the path of a file, of a configuration or weights: `transformers/PATH@PATH:KEY`."""
    name, _, weights = network.partition("@")
    paths = [weights[: colon.start()] for colon in re.finditer(":|$", weights) if "," not in weights[colon.start() :]]
    configured = name.startswith("transformers/") and _is_file(name.removeprefix("transformers/"))
    return ("," not in name or configured) and ("," not in weights or any(map(_is_file, paths)))


def _is_file(path: str) -> bool:
    return os.path.isfile(os.path.expanduser(path))


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
