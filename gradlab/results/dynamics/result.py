"""What was recorded of every layer along a training, with the errors beside it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NotRequired, Self, TypedDict

import pandas as pd

from gradlab.errors import GradlabError, UsageError, one_line
from gradlab.results.columns import read_table
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.names import CAPTIONS, DRAWN, FIGURES, STATISTICS
from gradlab.results.dynamics.noise import noise_findings, noise_scale
from gradlab.results.dynamics.reading import completed, read_records
from gradlab.results.dynamics.spread import finite, spread
from gradlab.results.dynamics.tables import records
from gradlab.results.result import Result
from gradlab.results.tables import Formats
from gradlab.results.training.result import TrainingResult, refuse_run_folder
from gradlab.stats.ratio import Ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ERRORS = "dynamics-errors.csv"
_ERROR_COLUMNS = ["network", "step", "train_error", "test_error"]


class Row(TypedDict):
    """The columns of a saved frame; see `DynamicsResult`."""

    network: str
    step: int
    layer: str
    index: NotRequired[int]
    block: NotRequired[str | None]
    statistic: str
    value: float | None


class ErrorRow(TypedDict):
    """The columns of the saved errors."""

    network: str
    step: int
    train_error: float | None
    test_error: float | None


@dataclass(repr=False)
class DynamicsResult(Result):
    """Statistics of every layer along the training of one run or several.

    Columns: network, step (optimizer steps made before: 0 is the initialization), layer, index (1-based, in order
    of execution), block (what the layer is part of, or empty), statistic, value. What is recorded of the whole model is
    layer `total`, of index 0. For the statistics see `gl.watch`.

    Attributes:
        errors: Columns network, step, train_error, test_error of the runs' metrics.
        drawn: Which statistics the figures show.
        figures: Which figures `save` draws, among `FIGURES`.
        layer: The layer of the figure `layer`.
    """

    errors: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_ERROR_COLUMNS))
    drawn: Sequence[str] = DRAWN
    figures: Sequence[str] = FIGURES[:1]
    layer: str | None = None

    name: ClassVar[str] = "dynamics"
    row: ClassVar[type] = Row
    few_texts: ClassVar[bool] = True
    title: ClassVar[str | None] = "Layers along the training"
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("steps", "last step"), "{:,d}".format),
        **dict.fromkeys(("smallest", "median", "largest"), "{:.3g}".format),
    }

    captions: ClassVar[Mapping[str, str]] = CAPTIONS

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run's folder, finished or not, also while it trains; what `save` wrote; or what a sink did.

        Args:
            folder: A folder, also one of TensorBoard events, or a file `.csv`, `.jsonl` or `.parquet`.

        Raises:
            UsageError: When it does not exist.
            GradlabError: When it holds none of these, or nothing was recorded.
        """
        folder = Path(folder)
        if not folder.exists():
            raise UsageError(f"{folder} does not exist: name a run's folder, or a file or folder that gl.watch wrote")
        if (folder / cls.record_file()).exists():
            return super().load(folder)
        if folder.is_file() or (not (folder / "dynamics.csv").exists() and any(folder.glob("events.*"))):
            frame = read_records(folder)
            frame.insert(0, "network", pd.Categorical([folder.stem]).repeat(len(frame)))
            return cls(frame, {"networks": [{"network": folder.stem}]})
        training = TrainingResult.load(folder)
        if not (folder / "dynamics.csv").exists():
            raise GradlabError(f"nothing was recorded in {folder}: train with --record responses,gradients")
        frame = read_records(folder / "dynamics.csv")
        frame.insert(0, "network", pd.Categorical([training.record["network"]]).repeat(len(frame)))
        errors = training.frame[_ERROR_COLUMNS]
        return cls(frame, training.record, training.notes, errors.copy())

    def _read_more(self, folder: Path, digests: Mapping[str, str]) -> None:
        self.errors = read_table(folder / _ERRORS, ErrorRow, digests.get(_ERRORS))
        self.frame = self.frame.assign(**completed(self.frame))

    @classmethod
    def of_runs(cls, folders: Iterable[str | Path]) -> Self:
        """Several runs as one result; runs of one network are told apart by the names of their folders.

        Raises:
            GradlabError: When a folder holds no run with dynamics.
        """
        paths = [Path(folder) for folder in folders]
        parts = [cls.load(path) for path in paths]
        names = [part.networks[0] for part in parts]
        for part, path, name in zip(parts, paths, names, strict=True):
            if names.count(name) > 1:
                part._rename(one_line(path.resolve().name))
        if len(set(labels := [part.networks[0] for part in parts])) < len(labels):
            raise UsageError(f"runs are told apart by their networks or folders, and these are {', '.join(labels)}")
        result = cls.concat(parts)
        result.errors = pd.concat([part.errors for part in parts], ignore_index=True)
        return result

    def _rename(self, label: str) -> None:
        self.frame["network"] = self.errors["network"] = label
        self.record["networks"][0]["network"] = label

    def summary(self) -> pd.DataFrame:
        """A row a network and statistic: how often it was recorded, and its layers at the last step."""
        rows = []
        all_steps = self.frame["step"].to_numpy()
        for network, statistic, mask in records(self.frame):
            steps = pd.unique(all_steps[mask])
            values = finite(self.frame[mask & (all_steps == steps.max())])["value"]
            row = {"network": network, "statistic": statistic, "steps": len(steps), "last step": int(steps.max())}
            rows.append(row | {"smallest": values.min(), "median": values.median(), "largest": values.max()})
        return pd.DataFrame(rows)

    def findings(self) -> list[str]:
        """What stands out, by network, with its rule; and how far layers differ at the first and the last step."""
        sentences: list[str] = []
        networks = self.networks
        for network in networks:
            part = self.frame[self.frame["network"] == network] if len(networks) > 1 else self.frame
            sentences += [one.as_finding(network) for one in seen(part)]
        return [*sentences, *noise_findings(self.frame), *spread(self.frame)]

    def noise_scale(self, examples: int = 1, network: str | None = None) -> Ratio:
        """B_simple of McCandlish et al. 2018 (arXiv:1812.06162), Eq. 2.9, over all records, with its interval.

        Variance and square of the gradient are averaged over records first, as App. A.1 has it; the interval is
        Fieller's. Where the gradient's square is not told from 0 it is not resolved.

        Args:
            examples: The examples of the smaller batch, which is a micro-batch or the part that `Watch.log` was given;
                the scale is then in examples, and otherwise in such batches.
            network: The network; None takes the first.

        Raises:
            UsageError: If noise was not recorded: `gl.watch(measure=[…, "noise"])`, with accumulated micro-batches or
                `Watch.log(part=…, share=…)`.
        """
        return noise_scale(self.frame[self.frame["network"] == (network or self.networks[0])], examples)

    def plot(self, ax: Axes | None = None, network: str | None = None, statistic: str = "grad_norm") -> Axes:
        """Draw one statistic of one network: layer × step, in colour.

        Args:
            ax: Where to draw; None makes a figure.
            network: Which; None takes the first.
            statistic: Of those recorded.

        Raises:
            UsageError: When it was not recorded.
        """
        from gradlab.plots.style import theme
        from gradlab.results.dynamics.figure import plot_layers_by_step

        chosen = network or self.networks[0]
        rows = self.frame[(self.frame["network"] == chosen) & (self.frame["statistic"] == statistic)]
        rows = rows[rows["index"] > 0]
        if rows.empty:
            raise UsageError(f"{statistic} of {chosen} was not recorded; there is {', '.join(self._recorded())}")
        with theme():
            import matplotlib.pyplot as plt

            ax = ax or plt.figure().subplots()
            mesh = plot_layers_by_step(rows, ax)
            ax.figure.colorbar(mesh, ax=ax)
            return ax

    def figure(self, which: str = "maps", *, layer: str | None = None) -> Figure:
        """One of the figures.

        Args:
            which: `maps`: layer × step in colour, above the error curves or the loss, a column a network. `bands`: the
                median and the 50 % and 90 % bands of the layers against step. `layer`: every statistic of one layer.
            layer: The layer of the last; `total` is the whole model. None takes the attribute `layer`.

        Raises:
            UsageError: If there is no such figure or layer, or a statistic was not recorded.
        """
        from matplotlib.figure import Figure

        from gradlab.results.dynamics.figure import dynamics_figure
        from gradlab.results.dynamics.lines_figure import bands_figure, layer_figure

        if which not in FIGURES:
            raise UsageError(f"there are the figures {', '.join(FIGURES)}, not {which!r}")
        if which == "layer":
            return layer_figure(self.frame, self._known_layer(layer or self.layer), Figure())
        if which == "bands":
            return bands_figure(self.frame, self._shown(), Figure())
        return dynamics_figure(self.frame, self.errors, self._shown(), Figure())

    def _shown(self) -> list[str]:
        """The statistics that figures show, all of which were recorded."""
        recorded = self._recorded()
        shown = [s for s in self.drawn if s in recorded] if tuple(self.drawn) == DRAWN else list(self.drawn)
        if missing := [s for s in shown or self.drawn if s not in recorded]:
            raise UsageError(f"{', '.join(missing)} was not recorded; there is {', '.join(recorded)}")
        return shown

    def _known_layer(self, layer: str | None) -> str:
        layers = [str(name) for name in self.frame["layer"].unique()]
        if layer not in layers:
            near = difflib.get_close_matches(layer or "", layers, 3, 0.3) or layers[:3]
            wanted = "the figure of a layer needs its name" if layer is None else f"there is no layer {layer!r}"
            raise UsageError(f"{wanted}: of the {len(layers)} there are, {', '.join(near)}, …")
        return layer

    def _figures(self) -> Mapping[str, Callable[[], Figure]]:
        names = {which: self.name if which == "maps" else f"{self.name}-{which}" for which in self.figures}
        return {name: partial(self.figure, which) for which, name in names.items()}

    def _all_figures(self) -> Mapping[str, Callable[[], Figure]]:
        drawable = FIGURES if self.layer else FIGURES[:2]
        return {**self._figures(), **replace(self, figures=drawable)._figures()}

    def save(
        self, folder: str | Path, formats: Sequence[str] = ("png", "pdf"), tables: Sequence[str] = ()
    ) -> list[Path]:
        """Write it as any result, but into no run's folder: the dynamics.csv there is the run's own.

        Raises:
            UsageError: For a run's folder.
            GradlabError: When a file cannot be written.
        """
        refuse_run_folder(folder)
        return super().save(folder, formats, tables)

    def _recorded(self) -> list[str]:
        recorded = set(self.frame["statistic"].unique())
        return [s for s in STATISTICS if s in recorded]

    def _more_files(self) -> dict[str, bytes]:
        return {_ERRORS: self.errors.to_csv(index=False).encode()}
