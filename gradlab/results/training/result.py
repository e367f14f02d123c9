"""Loss and error during training, with the record of the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, get_type_hints

import numpy as np
import pandas as pd

from gradlab.errors import GradlabError, UsageError, reason_of
from gradlab.results.columns import check_columns
from gradlab.results.degradation.findings import findings
from gradlab.results.degradation.published import PAPER_TEST_ERROR, PAPERS_EPOCHS
from gradlab.results.files import read_text
from gradlab.results.growing import read_growing
from gradlab.results.label import description, with_descriptions
from gradlab.results.result import Result
from gradlab.results.schema import RunFacts, check_record
from gradlab.results.tables import Formats
from gradlab.results.training.epochs import by_epoch, last_losses
from gradlab.results.training.measures import Measure, measure_of, of_tokens
from gradlab.results.training.recipes import recipe_key, settings_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = ("step", "epoch", "learning_rate", "train_loss", "train_error", "test_loss", "test_error")

CLASSES = {"cifar10": 10, "cifar100": 100}
"""The number of classes of each data set that a run names."""

TEST_IMAGES = dict.fromkeys(CLASSES, 10_000)
"""The number of test images of each."""

_FACTS = ("description", "recipe", "steps", "complete", "arithmetic", "initial_weights", "digest", "device", "versions")


CAPTION = (
    "Training error (dashed; over each epoch's batches, as they were trained on) and test error (bold) against "
    "optimizer steps."
)


class Row(TypedDict):
    """The columns of a saved frame; see `TrainingResult`."""

    network: str
    step: int
    epoch: float
    learning_rate: float | None
    train_loss: float | None
    train_error: float | None
    test_loss: float | None
    test_error: float | None


class TrainingResult(Result):
    """Loss and error of one or several runs, finished or not.

    Columns: network, step, epoch, learning_rate, train_loss and train_error (means over the batches since the previous
    row, augmented and in training mode), test_loss, test_error (missing without a test). Errors are fractions from 0 to
    1.

    Attributes:
        folder: The folder of the run, if the result was read from one.
    """

    folder: Path | None = None

    name: ClassVar[str] = "training"
    row: ClassVar[type] = Row
    title: ClassVar[str | None] = "Training"
    formats: ClassVar[Formats] = {
        "epochs": "{:.1f}".format,
        **dict.fromkeys(("train error (%)", "test error (%)", "best (%)", "paper (%)", "perplexity"), "{:.2f}".format),
        **dict.fromkeys(("train loss", "test loss", "best loss"), "{:.4f}".format),
    }

    priority: ClassVar[Sequence[str]] = (
        "network",
        "test error (%)",
        "test loss",
        "perplexity",
        "train error (%)",
        "train loss",
        "paper (%)",
        "epochs",
        "best (%)",
    )
    captions: ClassVar[Mapping[str, str]] = {"training": CAPTION}

    @classmethod
    def record_file(cls) -> str:
        """The name `record.json`, which a run itself also uses."""
        return "record.json"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Load the folder of a run, finished or not, also during training; or a result that `save` wrote.

        Raises:
            GradlabError: If the folder contains neither.
        """
        folder = Path(folder)
        if (folder / cls._frame_file()).exists():
            return super().load(folder)
        record = read_run_record(folder)
        metrics = folder / "metrics.csv"
        try:
            frame = read_growing(metrics, COLUMNS)
        except (OSError, ValueError) as error:
            raise GradlabError(f"{metrics} is no table: {reason_of(error)}") from None
        check_columns(frame, {name: kind for name, kind in get_type_hints(Row).items() if name != "network"}, metrics)
        _check_metrics(frame, metrics)
        network = record["network"]
        frame.insert(0, "network", network)
        notes = [f"{network}: {note}" for note in record.get("notes", [])]
        if not record.get("complete"):
            done = int(frame["step"].max()) if len(frame) else 0
            notes.append(f"{network}: not finished; {done:,} of {record['steps']:,} steps are in the table")
        result = cls(frame, {**record, "networks": with_descriptions([_facts(record)])}, notes)
        result.folder = folder
        return result

    def summary(self) -> pd.DataFrame:
        """One row per network: errors of the last epoch in percent, the best test error, and the paper's.

        Networks trained on tokens have losses instead, in nats, and the perplexity, exp of the test loss.
        """
        rows = []
        for network in self.networks:
            epochs = by_epoch(self.frame[self.frame["network"] == network])
            facts = self.facts(network)
            if of_tokens(facts):
                rows.append({"network": network, **last_losses(epochs)})
                continue
            tests = epochs["test_error"].dropna()
            paper = PAPER_TEST_ERROR.get((description(facts).get("series"), description(facts).get("depth")), np.nan)
            compares = facts.get("data") == "cifar10" and epochs["epoch"].iloc[-1] >= PAPERS_EPOCHS
            rows.append(
                {
                    "network": network,
                    "epochs": epochs["epoch"].iloc[-1],
                    "train error (%)": 100 * epochs["train_error"].iloc[-1],
                    "test error (%)": 100 * tests.iloc[-1] if len(tests) else np.nan,
                    "best (%)": 100 * tests.min(),
                    "paper (%)": paper if compares else np.nan,
                }
            )
        return pd.DataFrame(rows)

    def save(
        self, folder: str | Path, formats: Sequence[str] = ("png", "pdf"), tables: Sequence[str] = ()
    ) -> list[Path]:
        """Save the result as `Result.save`, but not in the folder of a run.

        Raises:
            UsageError: If the folder is that of a run.
            GradlabError: If a file cannot be written.
        """
        refuse_run_folder(folder)
        return super().save(folder, formats, tables)

    def findings(self) -> list[str]:
        """The findings on training errors over depth and beside plain nets, and on test errors beside the original."""
        rows = []
        for network in self.networks:
            facts = self.facts(network)
            if facts.get("complete") and "batch_size" in facts:
                last = by_epoch(self.frame[self.frame["network"] == network]).iloc[-1]
                rows.append(
                    {
                        "network": network,
                        "description": description(facts),
                        "key": (recipe_key(facts), facts.get("data")),
                        "seed": facts.get("seed"),
                        "steps": int(last["step"]),
                        "error": last["train_error"],
                        "images": int(last["steps"] * facts["batch_size"]),
                        "test_error": None if np.isnan(last["test_error"]) else last["test_error"],
                        "test_images": facts.get("test_images"),
                        "classes": facts.get("classes", CLASSES.get(str(facts.get("data")))),
                    }
                )
        return [*findings(rows)]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw training error dashed and test error bold against optimizer steps.

        Args:
            ax: The axes; None makes a figure.
        """
        from gradlab.plots.style import theme
        from gradlab.results.training.figure import plot_errors

        with theme():
            import matplotlib.pyplot as plt

            return plot_errors(self.curves(), ax or plt.figure().subplots(), measure=self._measure)

    def figure(self) -> Figure:
        """The error curves, with panels for plain, residual and other networks (He et al. 2015, Fig. 6)."""
        from matplotlib.figure import Figure

        from gradlab.results.training.figure import errors_figure

        return errors_figure(self.curves(), Figure(), self._measure)

    @property
    def _measure(self) -> Measure:
        return measure_of(map(self.facts, self.networks))

    def _figures(self) -> Mapping[str, Callable[[], Figure]]:
        return {} if self.frame.empty else {self.name: self.figure}

    def curves(self) -> pd.DataFrame:
        """Errors and losses epoch by epoch (see `by_epoch`), on tokens row by row, with the properties of networks.

        Raises:
            GradlabError: If no run has a row yet.
        """
        if self.frame.empty:
            raise GradlabError("there is nothing to draw yet: metrics.csv gets its first row at the first evaluation")
        parts = []
        for network in self.networks:
            part = self.frame[self.frame["network"] == network]
            if not of_tokens(self.facts(network)):
                part = by_epoch(part).assign(network=network)
            parts.append(part)
        return self.described(pd.concat(parts, ignore_index=True))


def refuse_run_folder(folder: str | Path) -> None:
    """Check that a folder is not that of a run, before a result is written to it.

    Raises:
        UsageError: If it is the folder of a run.
    """
    if (Path(folder) / "metrics.csv").exists():
        raise UsageError(f"{folder} is a run's folder, whose own files would be overwritten: give another")


def _check_metrics(frame: pd.DataFrame, path: Path) -> None:
    """Check what the rows of every run have in common.

    Raises:
        GradlabError: If their steps do not increase, or an error is no fraction.
    """
    if not frame["step"].is_monotonic_increasing or frame["step"].duplicated().any():
        raise GradlabError(f"{path} is damaged: its steps do not increase; restore it, or train again")
    for name in ("train_error", "test_error"):
        if not frame[name].dropna().between(0, 1).all():
            raise GradlabError(
                f"{path} is damaged: column {name} must contain fractions from 0 to 1; restore it, or train again"
            )


def read_run_record(folder: Path) -> dict[str, Any]:
    """The record of a run.

    Raises:
        GradlabError: If the folder contains no run.
    """
    try:
        content = json.loads(read_text(folder / "record.json"))
    except (OSError, ValueError) as error:
        raise GradlabError(f"{folder} holds no training: {reason_of(error)}") from None
    return check_record(content, folder / "record.json", RunFacts)


def _facts(record: dict[str, Any]) -> dict[str, Any]:
    options = record["options"]
    facts = {"network": record["network"], **{key: record[key] for key in _FACTS if key in record}}
    facts |= {"data": options["data"], "seed": options["seed"], "batch_size": options["recipe"]["batch_size"]}
    facts["settings"] = settings_of(options["recipe"])
    images = options["recipe"].get("validation") or TEST_IMAGES.get(options["data"])
    facts |= {} if images is None else {"test_images": images}
    return facts | {key: options[key] for key in ("record", "every") if key in options}
