"""Frames as CSV: the same bytes as those of pandas."""

import numpy as np
import pandas as pd
import pytest

from gradlab.results import csv_text
from gradlab.results.csv_text import csv_bytes


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_long_frames_are_written_as_pandas_writes_them(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts with commas and quotes, missing values, infinities and integers, over several pieces."""
    monkeypatch.setattr(csv_text, "_ROWS", 128)
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "network": pd.Categorical(rng.choice(["a,b", 'q"x', "c"], rows)),
            "step": np.arange(rows) // 7,
            "layer": pd.Categorical(rng.choice(["0", "x y", "fc"], rows)),
            "index": rng.integers(0, 3, rows),
            "block": pd.Categorical(rng.choice(["", "b"], rows)),
            "value": rng.choice([0.1, np.nan, np.inf, 1e-300, -0.0, 1 / 3, 1e22], rows),
            "weights": pd.Categorical(rng.choice(["t", None], rows)),
            "network_depth": pd.array(rng.choice([1, None], rows), "Int64"),
        }
    )
    assert csv_bytes(frame) == frame.to_csv(index=False).encode()
    assert csv_bytes(frame[["step", "value"]]) == frame[["step", "value"]].to_csv(index=False).encode()
