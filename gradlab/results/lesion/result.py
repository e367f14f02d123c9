"""The result of lesions and of gradients on paths: columns, summary and files."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import pandas as pd

from gradlab.errors import UsageError
from gradlab.results.columns import read_table
from gradlab.results.intervals import WithError
from gradlab.results.lesion.findings import findings
from gradlab.results.lesion.paths import by_length, effective_paths
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FIGURES = ("lesion", "deletion", "several", "paths")
"""The names of the figures: all panels, and those of Fig. 3, 5 and 6 of the paper."""

INTEGERS = ("index", "count", "sample", "images")
_PATHS_FILE = "lesion-paths.csv"
_PATH_CELLS = ("effective depth", "paths")


class Row(TypedDict):
    """The columns of a saved frame; see `LesionResult`."""

    network: str
    study: str
    block: str | None
    branch: str | None
    index: int | None
    resized: bool | None
    count: int
    sample: int | None
    tau: float | None
    error: float
    newly_wrong: float
    newly_right: float
    images: int


class PathRow(TypedDict):
    """The columns of the saved paths."""

    network: str
    length: int
    sample: int
    gradient_norm: float


def _no_paths() -> pd.DataFrame:
    return pd.DataFrame(columns=[*PathRow.__annotations__])


@dataclass(repr=False)
class LesionResult(Result):
    """The errors of networks with lesions, one row per lesion, and gradients on single paths.

    Columns: network; study (`intact`, `delete`, `several`, `reorder`); index (the place of the deleted residual
    module or layer in order of execution), block and branch (its name), and resized (whether its shortcut changes the
    shape, as down-sampling does); count (the number of modules deleted at once, or of pairs of blocks swapped); sample
    (the number of the random choice); tau (Kendall's rank correlation of the order of blocks with the original one);
    error (the fraction of wrong answers); newly_wrong and newly_right (the numbers of images whose answer the lesion
    changes); images.

    Attributes:
        paths_frame: One row per sampled path: network, length (the number of residual modules whose branch it takes),
            sample, and gradient_norm (the norm of the gradient of one example's loss with respect to its input).
        figures: The figures that `save` draws, among `FIGURES`.
    """

    paths_frame: pd.DataFrame = field(default_factory=_no_paths)
    figures: Sequence[str] = ("lesion",)

    name: ClassVar[str] = "lesion"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Lesions and paths"
    captions: ClassVar[Mapping[str, str]] = {
        "lesion": "Lesions and paths (Veit et al. 2016): test error with each residual module or layer deleted, with "
        "several random ones deleted, and with blocks reordered; distribution of the lengths of paths, norm of the "
        "gradient on a path of each length, and the product of the two. Bands and bars: 95 % intervals.",
    }
    formats: ClassVar[Formats] = {
        "parts": "{:d}".format,
        **dict.fromkeys(("error %", "median", "worst"), "{:.1f}".format),
        "mean increase": str,
        "effective depth": str,
        "paths": str,
    }
    priority: ClassVar[Sequence[str]] = (
        "network", "error %", "mean increase", "worst", "effective depth", "median", "paths", "parts", "weights",
    )  # fmt: skip
    legend: ClassVar[Mapping[str, str]] = {
        "mean increase": "percentage points by which one deletion raises the error, ± standard error over images",
        "effective depth": "mean number of modules on a path, weighted by its gradient",
    }

    @classmethod
    def from_rows(
        cls,
        network: str,
        rows: Sequence[dict[str, Any]],
        paths: Sequence[dict[str, Any]],
        notes: Sequence[str] = (),
        facts: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return one network's result.

        Args:
            network: The label of the network.
            rows: One dict per lesion, the intact network first.
            paths: One dict per sampled path.
            notes: The notes on this measurement.
            facts: The facts on the network for the record.
        """
        frame = pd.DataFrame(rows).assign(network=network)[[*Row.__annotations__]]
        sampled = pd.DataFrame(paths).assign(network=network)[[*PathRow.__annotations__]] if paths else _no_paths()
        record = {"networks": [{**(facts or {}), "network": network}]}
        return cls(_typed(frame), record, list(notes), sampled)

    @classmethod
    def concat(cls, results: Iterable[Self]) -> Self:
        """See `Result.concat`."""
        parts = cls._told_apart(results)
        joined = super().concat(parts)
        # Frames without rows would make the columns of the others objects.
        sampled = [part.paths_frame for part in parts if len(part.paths_frame)]
        if sampled:
            joined.paths_frame = pd.concat(sampled, ignore_index=True)
        return joined

    def _renamed(self, names: Mapping[str, str]) -> Self:
        renamed = super()._renamed(names)
        networks = self.paths_frame["network"].map(lambda name: names.get(name, name))
        renamed.paths_frame = self.paths_frame.assign(network=networks)
        return renamed

    def lengths_frame(self) -> pd.DataFrame:
        """One row per network and path length; see `gradlab.results.lesion.paths.by_length`."""
        groups = self.paths_frame.groupby("network", sort=False)
        rows = [by_length(rows).assign(network=network) for network, rows in groups]
        return self.described(pd.concat(rows, ignore_index=True)) if rows else pd.DataFrame()

    def summary(self) -> pd.DataFrame:
        """One row per network: its error, how deleting one part raises it, and its effective depth."""
        rows = []
        for network, own in self.frame.groupby("network", sort=False):
            facts, error = self.facts(str(network)), own["error"].iloc[0]
            deleted = own.loc[own["study"] == "delete", "error"]
            paths = self.paths_frame[self.paths_frame["network"] == network]
            row = {
                "network": facts.get("name", network),
                "weights": facts.get("weights_label", "–"),
                "part": facts.get("part", "–"),
                "parts": facts.get("parts", len(deleted)),
                "error %": 100 * error,
                "mean increase": _points(facts),
                **({"median": 100 * deleted.median(), "worst": 100 * deleted.max()} if len(deleted) else {}),
            }
            if len(self.paths_frame):
                row |= _path_cells(paths)
            rows.append(row)
        texts = {name: pd.Series([row[name] for row in rows], dtype=object) for name in _PATH_CELLS if name in rows[0]}
        return pd.DataFrame(rows).assign(**texts)

    def findings(self) -> list[str]:
        """The findings on deletion, on reordering, and on the paths that carry the gradient."""
        return [*findings(self.frame, self.paths_frame, self.record.get("networks", []))]

    def figure(self, which: str = "lesion") -> Figure:
        """One of the figures.

        Args:
            which: `lesion` (all panels), `deletion` (the paper's Fig. 3), `several` (Fig. 5) or `paths` (Fig. 6).

        Raises:
            UsageError: If there is no figure of this name, or its data was not measured.
        """
        from matplotlib.figure import Figure

        if which not in FIGURES:
            raise UsageError(f"there are the figures {', '.join(FIGURES)}, not {which!r}")
        return self._draw(Figure(), which)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the error with each part deleted.

        Args:
            ax: The axes; None makes the figure of all panels.

        Returns:
            The axes drawn on, or the first of them.
        """
        from gradlab.results.lesion.figure import plot_deletions

        return self._first_axes() if ax is None else plot_deletions(self.to_frame(), ax)

    def _draw(self, figure: Figure, which: str = "lesion") -> Figure:
        from gradlab.results.lesion.figure import lesion_figure

        return lesion_figure(self.to_frame(), self.lengths_frame(), figure, which)

    def _figures(self) -> Mapping[str, Callable[[], Figure]]:
        names = {which: self.name if which == "lesion" else f"{self.name}-{which}" for which in self.figures}
        return {name: partial(self.figure, which) for which, name in names.items()}

    def _more_files(self) -> dict[str, bytes]:
        return {_PATHS_FILE: self.paths_frame.to_csv(index=False).encode()}

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        read = read_table(folder / _PATHS_FILE, PathRow, digests.get(_PATHS_FILE))
        self.paths_frame = read if len(read) else _no_paths()
        # In a file, empty names are missing values.
        self.frame = _typed(self.frame.fillna({"block": "", "branch": ""}))


def _typed(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with integers and truth values that may be missing."""
    texts = dict.fromkeys(("network", "study", "block", "branch"), str)
    return frame.astype({**texts, **dict.fromkeys(INTEGERS, "Int64"), "resized": "boolean", "tau": float})


def _path_cells(paths: pd.DataFrame) -> dict[str, Any]:
    """The cells on a network's paths, if any were sampled."""
    if paths.empty:
        return dict.fromkeys(_PATH_CELLS, "–")
    found = effective_paths(paths)
    depth = WithError(found.depth.value, found.depth.error)
    return dict(zip(_PATH_CELLS, (depth, f"{found.shortest}–{found.longest} of {found.modules}"), strict=True))


def _points(facts: Mapping[str, Any]) -> str:
    """The mean increase of the error in percentage points, with its standard error."""
    increase, error = facts.get("increase"), facts.get("increase_sem")
    if increase is None:
        return "–"
    return f"{100 * increase:+.2f}" + ("" if error is None or math.isnan(error) else f" ± {100 * error:.2f}")
