"""What is known before a pass, which one that does not count leaves as it was."""

from __future__ import annotations

from typing import Any


class Kept:
    """Keeps the contents of tables, to give them back.

    Args:
        tables: Dictionaries and sets, which stay the same objects.
    """

    def __init__(self, *tables: dict[Any, Any] | set[Any]) -> None:
        self._tables: list[Any] = [*tables]
        self._contents: list[Any] = []

    def keep(self) -> None:
        """Keep what they contain now."""
        self._contents = [table.copy() for table in self._tables]

    def restore(self) -> None:
        """Let them contain what was kept."""
        for table, content in zip(self._tables, self._contents, strict=True):
            table.clear()
            table.update(content)
