"""Commands that are made when they are called, so that one starts without the options and imports of the others."""

from collections import UserDict
from collections.abc import Callable, Iterable
from typing import Any


class Loaded(UserDict[str, Any]):
    """Commands by name, each of which is made when it is first looked up.

    Args:
        names: The names in the order of help.
        make: Makes the command of a name.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Any]) -> None:
        super().__init__(dict.fromkeys(names))
        self._make = make

    def __getitem__(self, name: str) -> Any:
        if self.data[name] is None:
            self.data[name] = self._make(name)
        return self.data[name]
