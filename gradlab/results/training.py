"""Loss and error along a training, with the record of the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Self

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.results.result import Result
from gradlab.results.tables import Formats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class TrainingResult(Result):
    """The metrics of one run or several: columns network, step, epoch, learning_rate, train_loss, train_error,
    test_loss, test_error; errors are shares from 0 to 1.
    """

    name: ClassVar[str] = "training"
    title: ClassVar[str | None] = "Training"
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("train_loss", "test_loss", "epoch", "learning_rate"), "{:.4g}".format),
        **dict.fromkeys(("train_error", "test_error"), "{:.2%}".format),
    }

    @classmethod
    def record_file(cls) -> str:
        """`record.json`, which the run itself writes."""
        return "record.json"

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run's folder, finished or not.

        Raises:
            GradlabError: When it holds no run.
        """
        try:
            record = json.loads((Path(folder) / cls.record_file()).read_text())
            frame = pd.read_csv(Path(folder) / "metrics.csv")
        except (OSError, ValueError) as error:
            raise GradlabError(f"{folder} holds no training: {error}") from None
        frame.insert(0, "network", record["network"])
        return cls(frame, {**record, "networks": [{"network": record["network"]}]}, record.get("notes", []))

    def summary(self) -> pd.DataFrame:
        """The last row with a test, for each network."""
        return self.frame.dropna(subset="test_error").groupby("network", sort=False).tail(1).reset_index(drop=True)

    def _figures(self) -> Mapping[str, Figure]:
        return {}
