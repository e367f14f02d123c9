"""Lists of names, and sentences common to several networks merged into one with their names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def listed(names: Sequence[str]) -> str:
    """A list of names: `a`, `a and b`, `a, b and c`."""
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first of some names, and how many there are if not all are given."""
    every = [*names]
    return ", ".join(every[:most]) + (f", … ({len(every)} in all)" if len(every) > most else "")


def counted(count: int, noun: str) -> str:
    """A number with its noun: `1 layer`, `2,000 layers`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def grouped(lines: Iterable[str], networks: Sequence[str]) -> list[str]:
    """Merge equal sentences of the form `NETWORK: …` into one, and remove repetitions of others.

    Args:
        lines: The sentences, whose order is kept.
        networks: The names that may precede a sentence.
    """
    # Among names with a common beginning, the longest one matches.
    names = sorted(networks, key=len, reverse=True)
    said: dict[tuple[bool, str], list[str]] = {}
    for line in lines:
        name = next((name for name in names if line.startswith(f"{name}: ")), None)
        text = line if name is None else line.removeprefix(f"{name}: ")
        there = said.setdefault((name is None, text), [])
        if name is not None and name not in there:
            there.append(name)
    return [text if alone else f"{listed(there)}: {text}" for (alone, text), there in said.items()]
