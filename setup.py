"""What pyproject.toml cannot say: how README.md reads on a package index, which has none of the files beside it."""

import re
from typing import Any

from setuptools import Distribution, setup

FILE = r"\((?!https?://)([^)\s]+)\)"
"""The end of a link to a file."""


def for_an_index(readme: str) -> str:
    """A description without pictures and their captions, and with the paths of files in place of links to them."""
    without = re.sub(rf"!\[[^\]]*\]{FILE}\n+(\*.+\*\n+)?", "", readme)
    return re.sub(rf"\[([^\]]*)\]{FILE}", lambda link: _named(link[1], link[2]), without)


def _named(text: str, path: str) -> str:
    return text if text == path else f"{text} (`{path}`)"


class Described(Distribution):
    """The package as pyproject.toml has it, and its description."""

    def parse_config_files(self, *args: Any, **options: Any) -> None:
        """Read pyproject.toml, and what it reads."""
        super().parse_config_files(*args, **options)
        self.metadata.long_description = for_an_index(self.metadata.long_description)


setup(distclass=Described)
