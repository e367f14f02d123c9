"""What was recorded of every layer along a training, with the errors beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
import pandas as pd

from gradlab.errors import GradlabError, UsageError
from gradlab.results.dynamics.findings import seen
from gradlab.results.dynamics.reading import completed, read_records
from gradlab.results.dynamics.tables import total_series
from gradlab.results.finding import Finding
from gradlab.results.result import Result
from gradlab.results.tables import Formats
from gradlab.results.training.result import TrainingResult, refuse_run_folder
from gradlab.stats.ratio import Ratio, ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STATISTICS = (
    *("grad_norm", "response_std", "relative", "response_mean", "response_max", "non_finite_fraction"),
    *("zero_fraction", "dead_units", "saturated_fraction", "response_grad_rms", "grad_rms", "weight_norm"),
    *("update_norm", "update_ratio", "update_cosine", "angular_update"),
)
"""What may be recorded of a layer; see `gl.watch`."""

DRAWN = ("grad_norm", "response_std")
"""What the figure shows by default, where it was recorded."""

_RULE = (
    "Told, without a verdict, of gradient norms and response stds wherever all layers' are above 0 at the first and "
    "the last recorded step: the largest over the smallest of the layers, and their median."
)
_ERRORS = "dynamics-errors.csv"
_ERROR_COLUMNS = ["network", "step", "train_error", "test_error"]


@dataclass(repr=False)
class DynamicsResult(Result):
    """Statistics of every layer along the training of one run or several.

    Columns: network, step (optimizer steps made before: 0 is the initialization), layer, index (1-based, in order
    of execution), block (what the layer is part of, or empty), statistic, value. What is recorded of the whole model is
    layer `total`, of index 0. For the statistics see `gl.watch`.

    Attributes:
        errors: Columns network, step, train_error, test_error of the runs' metrics.
        drawn: Which statistics the figure shows.
    """

    errors: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=_ERROR_COLUMNS))
    drawn: Sequence[str] = DRAWN

    name: ClassVar[str] = "dynamics"
    title: ClassVar[str | None] = "Layers along the training"
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("steps", "last step"), "{:,d}".format),
        **dict.fromkeys(("smallest", "median", "largest"), "{:.3g}".format),
    }

    captions: ClassVar[Mapping[str, str]] = {
        "dynamics": (
            "Each layer (upward, in order of execution) at each recorded step in colour, with one scale for all "
            "networks, over the errors in percent (training dashed, test bold) or the loss. Of more than 1,000 steps "
            "several share a column, which shows the value farthest from the layer's median."
        )
    }

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run's folder, finished or not, also while it trains; what `save` wrote; or what a sink did.

        Args:
            folder: A folder, also one of TensorBoard events, or a file `.csv`, `.jsonl` or `.parquet`.

        Raises:
            GradlabError: When it holds none of these, or nothing was recorded.
        """
        folder = Path(folder)
        if (folder / cls.record_file()).exists():
            result = super().load(folder)
            try:
                result.errors = pd.read_csv(folder / _ERRORS)
                result.frame = result.frame.assign(**completed(result.frame))
            except (OSError, ValueError) as error:
                raise GradlabError(f"{folder} holds no whole dynamics result: {error}") from None
            return result
        if folder.is_file() or (not (folder / "dynamics.csv").exists() and any(folder.glob("events.*"))):
            frame = read_records(folder)
            frame.insert(0, "network", folder.stem)
            return cls(frame, {"networks": [{"network": folder.stem}]})
        training = TrainingResult.load(folder)
        if not (folder / "dynamics.csv").exists():
            raise GradlabError(f"nothing was recorded in {folder}: train with --record responses,gradients")
        frame = read_records(folder / "dynamics.csv")
        frame.insert(0, "network", training.record["network"])
        errors = training.frame[_ERROR_COLUMNS]
        return cls(frame, training.record, training.notes, errors.copy())

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
                part._rename(path.resolve().name)
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
        for (network, statistic), part in self._layers().groupby(["network", "statistic"], sort=False):
            values = _finite(part[part["step"] == part["step"].max()])["value"]
            rows.append(
                {
                    "network": network,
                    "statistic": statistic,
                    "steps": part["step"].nunique(),
                    "last step": int(part["step"].max()),
                    "smallest": values.min(),
                    "median": values.median(),
                    "largest": values.max(),
                }
            )
        return pd.DataFrame(rows)

    def findings(self) -> list[str]:
        """What stands out, by network, with its rule; and how far layers differ at the first and the last step."""
        sentences: list[str] = []
        for network, part in self.frame.groupby("network", sort=False):
            sentences += [one.as_finding(str(network)) for one in seen(part)]
        return sentences + self._spread()

    def noise_scale(self, examples: int = 1, network: str | None = None) -> Ratio:
        """B_simple of McCandlish et al. 2018 (arXiv:1812.06162), Eq. 2.9, over all records, with its interval.

        Variance and square of the gradient are averaged over records first, as App. A.1 has it; the interval is
        Fieller's. Where the gradient's square is not told from 0 it is not resolved.

        Args:
            examples: Of a micro-batch: the scale is in examples then, and in micro-batches by default.
            network: Which; None takes the first.

        Raises:
            UsageError: When noise was not recorded: `gl.watch(measure=[…, "noise"])`, with accumulated micro-batches.
        """
        rows = self.frame[self.frame["network"] == (network or self.networks[0])]
        (steps, variance), (others, square) = (
            total_series(rows, statistic) for statistic in ("gradient_variance", "gradient_square")
        )
        if not steps or steps != others:
            raise UsageError(
                'noise was not recorded: it needs measure=[…, "noise"], and steps of two or more micro-batches each'
            )
        found = ratio(variance, square)
        return Ratio(examples * found.value, examples * found.low, examples * found.high, found.resolved)

    def _spread(self) -> list[str]:
        """How far layers differ at the first and the last recorded step."""
        sentences: list[str] = []
        for (network, statistic), part in self._layers().groupby(["network", "statistic"], sort=False):
            ends = [_finite(part[part["step"] == step]) for step in (part["step"].min(), part["step"].max())]
            if statistic not in DRAWN or any(end.empty or end["value"].min() <= 0 for end in ends):
                continue
            first, last = (end["value"].max() / end["value"].min() for end in ends)
            what = "gradient norms" if statistic == "grad_norm" else "response stds"
            medians = [end["value"].median() for end in ends]
            places = ends[1].set_index("layer")["value"]
            sentence = (
                f"{network}: {what} of the layers differ by a factor {first:.3g} at step {ends[0]['step'].iloc[0]:,} "
                f"and {last:.3g} at step {ends[1]['step'].iloc[0]:,} (smallest in {places.idxmin()}, largest in "
                f"{places.idxmax()}); their median goes from {medians[0]:.3g} to {medians[1]:.3g}."
            )
            sentences.append(Finding(sentence, _RULE))
        return sentences

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

    def figure(self) -> Figure:
        """Heat maps of the drawn statistics above, error curves below, a column a network.

        Raises:
            UsageError: When one was not recorded.
        """
        from matplotlib.figure import Figure

        from gradlab.results.dynamics.figure import dynamics_figure

        recorded = self._recorded()
        shown = [s for s in self.drawn if s in recorded] if tuple(self.drawn) == DRAWN else list(self.drawn)
        if missing := [s for s in shown or self.drawn if s not in recorded]:
            raise UsageError(f"{', '.join(missing)} was not recorded; there is {', '.join(recorded)}")
        return dynamics_figure(self.frame, self.errors, shown, Figure())

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

    def _layers(self) -> pd.DataFrame:
        """The rows of layers, without those of the whole model."""
        return self.frame[self.frame["index"] > 0]

    def _recorded(self) -> list[str]:
        recorded = set(self.frame["statistic"].unique())
        return [s for s in STATISTICS if s in recorded]

    def _more_files(self) -> dict[str, bytes]:
        return {_ERRORS: self.errors.to_csv(index=False).encode()}


def _finite(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[np.isfinite(rows["value"])]
