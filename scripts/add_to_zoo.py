"""Store finished runs in the zoo, and write its tables in README.md and docs/training.md again.

python scripts/add_to_zoo.py RUN…                   with CIFAR-10 at hand (GRADLAB_DATA)
python scripts/add_to_zoo.py --into FOLDER RUN…     into another folder, to see what it would be
"""

import argparse
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradlab.errors import GradlabError
from gradlab.experiments.zoo import add_to_zoo
from gradlab.zoo import by_family_and_depth, zoo_record

ROOT = Path(__file__).parents[1]


def rows(record: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The cells of every network by depth, the head first: recipe, epochs, and errors in percent."""
    found = [["network", "recipe", "epochs", "test error, %", "training error, %"]]
    for name in sorted(record, key=lambda name: by_family_and_depth(name)[1::-1]):
        one = record[name]
        errors = [f"{100 * one['errors'][data]:.2f}" for data in ("cifar10", "cifar10-train")]
        found.append([name, f"`{one['preset']}`", f"{one['epochs']:g}", *errors])
    return found


def with_table(page: str, cells: list[list[str]]) -> str:
    """The page with these cells in place of its first table whose head begins with `network`."""
    lines = page.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| network |"))
    length = len([*itertools.takewhile(lambda line: line.startswith("|"), lines[first:])])
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    table = [head, "|---" * len(cells[0]) + "|", *body]
    return "\n".join([*lines[:first], *table, *lines[first + length :]]) + "\n"


def write_tables() -> None:
    """Write a network a row in the documentation, and a network a column, without its recipe, in the README."""
    down = rows(zoo_record())
    across = [list(column) for place, column in enumerate(zip(*down, strict=True)) if down[0][place] != "recipe"]
    for path, cells in ((ROOT / "docs" / "training.md", down), (ROOT / "README.md", across)):
        path.write_text(with_table(path.read_text(), cells))


def main() -> None:
    """Store the runs that are named, or say in one sentence why one cannot be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="RUN", help="The folder of a finished run.")
    parser.add_argument("--into", type=Path, metavar="FOLDER", help="A folder in place of the zoo's.")
    asked = parser.parse_args()
    for run in asked.runs:
        try:
            print(add_to_zoo(run, told, folder=asked.into))
        except GradlabError as reason:
            sys.exit(f"{reason}")
    if asked.into is None:
        write_tables()


def told(label: str, done: int, total: int) -> None:
    """Show the progress of a measurement on one line."""
    print(f"\r{label} {done}/{total}  ", end="", file=sys.stderr)


if __name__ == "__main__":
    main()
