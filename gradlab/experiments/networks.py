"""Parser of command-line text into the names of networks, `NAME[@WEIGHTS]`."""

import os
import re
from collections.abc import Iterable, Iterator


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
    """Whether each comma is in the path of a file, of a configuration or weights: `LIBRARY/PATH@PATH:KEY`."""
    name, _, weights = network.partition("@")
    library, _, path = name.partition("/")
    configured = "," not in library and _is_file(path)
    paths = [weights[: colon.start()] for colon in re.finditer(":|$", weights) if "," not in weights[colon.start() :]]
    return ("," not in name or configured) and ("," not in weights or any(map(_is_file, paths)))


def _is_file(path: str) -> bool:
    return os.path.isfile(os.path.expanduser(path))
