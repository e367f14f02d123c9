"""Loss and error along a training, with the record of the run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Self

import pandas as pd

from gradlab.errors import GradlabError
from gradlab.results.result import Result
from gradlab.results.tables import Formats


class TrainingResult(Result):
    """The metrics of one run or several: columns network, step, epoch, learning_rate, train_loss, train_error,
    test_loss, test_error; errors are shares from 0 to 1.
    """

    name: ClassVar[str] = "training"
    formats: ClassVar[Formats] = {
        **dict.fromkeys(("train_loss", "test_loss", "epoch", "learning_rate"), "{:.4g}".format),
        **dict.fromkeys(("train_error", "test_error"), "{:.2%}".format),
    }

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a run's folder, finished or not.

        Raises:
            GradlabError: When it holds no run.
        """
        try:
            record = json.loads((Path(folder) / "record.json").read_text())
            frame = pd.read_csv(Path(folder) / "metrics.csv")
        except (OSError, ValueError) as error:
            raise GradlabError(f"{folder} holds no training: {error}") from None
        frame.insert(0, "network", record["network"])
        return cls(frame, {**record, "networks": [{"network": record["network"]}]}, record.get("notes", []))

    def summary(self) -> pd.DataFrame:
        """The last row with a test, for each network."""
        return self.frame.dropna(subset="test_error").groupby("network", sort=False).tail(1).reset_index(drop=True)
