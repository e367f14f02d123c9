"""A measurement: a tidy frame and its record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import pandas as pd

from gradlab.errors import GradlabError, UsageError, reason_of
from gradlab.results.columns import read_table
from gradlab.results.coverage import Coverage, coverage_lines
from gradlab.results.csv_text import csv_bytes
from gradlab.results.drawing import drawn
from gradlab.results.files import read_text, write_all
from gradlab.results.joining import told_apart
from gradlab.results.label import COLUMNS, described, with_descriptions
from gradlab.results.printing import html, page, text
from gradlab.results.record import json_text
from gradlab.results.schema import RecordFacts, check_record
from gradlab.results.tables import TABLE_SUFFIXES, Formats, text_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group


class Row(TypedDict):
    """The columns of a saved frame; a subclass of `Result` has its own."""

    network: str


@dataclass(repr=False)
class Result:
    """A tidy frame with its record; a subclass for each measurement defines its summary and figure.

    Attributes:
        frame: A tidy frame with one observation per row.
        record: The record of the measurement, as plain values.
        notes: Notes on this measurement for the reader, one sentence each.

    A subclass sets `name` (of its files), `row` (the types of the columns of its frame), `known_facts` (those of its
    record), `title`, `table` (the name of its text tables), `formats` (of the summary's values), `priority` (the titles
    of the summary's columns in order of importance, of which those that fit are printed), `legend` (explanations of
    columns of the summary, by title), `answer` (the number of findings before the table), `captions` (the captions of
    figures, by name), `covering` (the first words of the lines on coverage) and, if it differs from `name`,
    `measurement` (its name in records).
    """

    frame: pd.DataFrame
    record: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    name: ClassVar[str] = "result"
    row: ClassVar[type] = Row
    known_facts: ClassVar[type] = RecordFacts
    title: ClassVar[str | None] = None
    table: ClassVar[str] = "summary"
    formats: ClassVar[Formats] = {}
    priority: ClassVar[Sequence[str]] = ()
    legend: ClassVar[Mapping[str, str]] = {}
    answer: ClassVar[int] = 2
    captions: ClassVar[Mapping[str, str]] = {}
    covering: ClassVar[str] = "measured"
    measurement: ClassVar[str] = ""
    few_texts: ClassVar[bool] = False

    def to_frame(self) -> pd.DataFrame:
        """A copy of the tidy frame, with the properties of networks as columns: family, depth and others."""
        return self.described(self.frame)

    def described(self, frame: pd.DataFrame) -> pd.DataFrame:
        """A frame of this measurement with the properties of its networks as columns (see `gradlab.results.label`)."""
        return described(frame, self.record.get("networks", []))

    @classmethod
    def concat(cls, results: Iterable[Self]) -> Self:
        """Concatenate the results of several networks and the lists of networks in their records.

        Later networks of the same name get a number, unless they have different seeds.

        Raises:
            UsageError: If there is no result, or a result of another kind.
        """
        parts = cls._told_apart(results)
        return cls(
            pd.concat([part.frame for part in parts], ignore_index=True),
            {"networks": [network for part in parts for network in part.record["networks"]]},
            [note for part in parts for note in part.notes],
        )

    @classmethod
    def _told_apart(cls, results: Iterable[Self]) -> list[Self]:
        """Results of this kind in which no two networks have the same name, unless they have different seeds."""
        parts = cls._alike(results, "concat")
        seeds = [{*part.frame.get("seed", pd.Series([None])).astype(object).map(_known)} for part in parts]
        names = told_apart([part.networks for part in parts], seeds)
        return [part._renamed(new) for part, new in zip(parts, names, strict=True)]

    @classmethod
    def _alike(cls, results: Iterable[Self], doing: str) -> list[Self]:
        """The results as a list, after checking that all are of this kind."""
        parts = list(results)
        if not parts:
            raise UsageError(f"{cls.__name__}.{doing} needs at least one result")
        other = next((part for part in parts if not isinstance(part, cls)), None)
        if other is not None:
            raise UsageError(
                f"{cls.__name__}.{doing} takes results of its own kind, not {type(other).__name__}: results of "
                "different kinds are kept, saved and drawn separately"
            )
        return parts

    def _renamed(self, names: Mapping[str, str]) -> Self:
        """The result with other names of its networks."""
        if all(old == new for old, new in names.items()):
            return self
        networks = [
            {**facts, "network": names.get(facts["network"], facts["network"])} for facts in self.record["networks"]
        ]
        frame = self.frame.assign(network=self.frame["network"].map(names))
        return type(self)(frame, {**self.record, "networks": networks}, self.notes)

    @property
    def coverage(self) -> Coverage | None:
        """The coverage of the networks' parameters by the measurement; None if the record does not give it."""
        parts = self._coverages()
        return Coverage.together(parts) if parts else None

    def _coverages(self) -> dict[str, Coverage]:
        """The coverage of each network whose record has it."""
        # Some measurements record only the names of networks.
        networks = [facts for facts in self.record.get("networks", []) if isinstance(facts, dict)]
        return {n["network"]: Coverage.from_record(n["coverage"]) for n in networks if n.get("coverage")}

    def coverage_lines(self) -> list[str]:
        """The printed lines on coverage: one sentence for all networks with the same parts left out."""
        return coverage_lines(self._coverages(), len(self.networks), self.covering)

    def legend_lines(self) -> list[str]:
        """The printed lines below the table, which explain its columns of errors."""
        columns = self.summary().columns
        told = [f"{title}: {meaning}" for title, meaning in self.legend.items() if title in columns]
        return [f"{'; '.join(told)}."] if told else []

    @property
    def networks(self) -> list[str]:
        """The networks in the requested order."""
        return list(self.frame["network"].unique())

    def facts(self, network: str) -> dict[str, Any]:
        """The facts on one network in the record: its description, weights, recipe and others.

        Args:
            network: The label of the network.
        """
        entries = (entry for entry in self.record.get("networks", []) if isinstance(entry, dict))
        return next((entry for entry in entries if entry["network"] == network), {"network": network})

    def summary(self) -> pd.DataFrame:
        """The table that a reader sees first."""
        return self.to_frame()

    def findings(self) -> list[str]:
        """The findings of the measurement, as computed sentences with numbers; each `Finding` has its rule."""
        return []

    def figure(self) -> Figure:
        """Draw the figure at the width of a column, without showing it."""
        from matplotlib.figure import Figure

        return self._draw(Figure())

    def _draw(self, figure: Figure) -> Figure:
        """Draw on an empty figure."""
        raise UsageError(f"a {self.name} result has no figure of its own")

    def _first_axes(self) -> Axes:
        """Draw the whole figure in the theme, where pyplot can show it, and return its first axes."""
        from gradlab.plots.style import theme

        with theme():
            import matplotlib.pyplot as plt

            return self._draw(plt.figure()).axes[0]

    def _figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that make the figures for `save`, by file name without suffix."""
        return {self.name: self.figure}

    def _all_figures(self) -> Mapping[str, Callable[[], Figure]]:
        """Functions that make all figures of the measurement, by file name without suffix."""
        return self._figures()

    def _more_files(self) -> dict[str, bytes]:
        """The files that `save` writes in addition to frame, record, figures and tables, by file name."""
        return {}

    def save(
        self, folder: str | Path, formats: Sequence[str] = ("png", "pdf"), tables: Sequence[str] = ()
    ) -> list[Path]:
        """Write `NAME.csv`, `NAME.json`, the figure in each format and the summary as tables.

        Every file is written completely or not at all, and none before all are ready.

        Args:
            folder: The folder, which is created if necessary.
            formats: The formats of figures, among `png`, `pdf` and `svg`.
            tables: The formats of tables, among `csv`, `latex` and `markdown`.

        Returns:
            The paths written.

        Raises:
            GradlabError: If a file cannot be written.
        """
        contents = {self._frame_file(): csv_bytes(self.to_frame()), **self._more_files()}
        for kind in tables:
            table = text_table(self.summary(), self.formats, kind)
            contents[f"{self.name}-{self.table}.{TABLE_SUFFIXES[kind]}"] = table.encode()
        if formats:
            contents.update(drawn(self._figures(), formats))
        # The record comes last and has the digests of the others, so that `load` refuses files of different runs.
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        contents[self.record_file()] = self._json(digests).encode()
        return write_all(folder, contents)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load a result that `save` wrote; `Result.load` itself finds the kind of the only result in a folder.

        Raises:
            GradlabError: If the folder contains no such result, or files of different runs.
            UsageError: If `Result.load` finds no result, or several.
        """
        if cls is Result:
            from gradlab.results.kinds import load_only

            return load_only(folder)  # type: ignore[return-value]
        folder = Path(folder)
        try:
            content = json.loads(read_text(folder / cls.record_file()))
        except (OSError, ValueError) as error:
            raise GradlabError(f"{folder} holds no whole {cls.name} result: {reason_of(error)}") from None
        record = check_record(content, folder / cls.record_file(), cls.known_facts)
        digests = record.pop("sha256", {})
        digest = digests.get(cls._frame_file(), "unknown")
        frame = read_table(folder / cls._frame_file(), cls.row, digest, few_texts=cls.few_texts)
        if frame.empty:
            raise GradlabError(f"{folder / cls._frame_file()} has no rows: there is nothing to show")
        notes = record.pop("notes", [])
        record.pop("findings", None)
        networks = [entry if isinstance(entry, dict) else {"network": entry} for entry in record.get("networks", [])]
        record["networks"] = with_descriptions(networks)
        result = cls(frame.drop(columns=[*COLUMNS], errors="ignore"), record, notes)
        result._read_more(folder, digests)
        try:
            result.summary(), result.findings()
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Each value has its type, and yet the rows do not belong together.
            reason = f"it cannot be summed up ({type(error).__name__}: {str(error)[:100]})"
            raise GradlabError(f"{folder} is damaged or from another version: {reason}; measure again") from error
        return result

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        """Read the other files of the result, whose digests the record has."""

    @classmethod
    def record_file(cls) -> str:
        """The name of the file of the record in the folder of a result."""
        return f"{cls.name}.json"

    @classmethod
    def _frame_file(cls) -> str:
        return f"{cls.name}.csv"

    def _json(self, digests: Mapping[str, str]) -> str:
        made = {"measurement": self.measurement or self.name, **self.record}
        content = {**made, "notes": self.notes, "findings": self.findings(), "sha256": dict(digests)}
        return json_text(content)

    def svg(self) -> dict[str, str]:
        """All figures of the measurement as SVG text, by name."""
        files = drawn(self._all_figures(), ("svg",))
        return {name.removesuffix(".svg"): content.decode() for name, content in files.items()}

    def __rich__(self) -> Group:
        return page(self)

    def __repr__(self) -> str:
        return text(self)

    def _repr_html_(self) -> str:
        return html(self)


def _known(value: Any) -> Any:
    """The value, or None if it is missing."""
    return None if pd.isna(value) else value
