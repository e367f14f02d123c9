"""Tables that another process may be writing to."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def read_growing(path: str | Path, columns: Sequence[str]) -> pd.DataFrame:
    """The whole lines of a CSV file; what a running or killed process left unfinished at its end is left out.

    Args:
        path: The file; one that is not there is empty.
        columns: Of an empty one.

    Raises:
        OSError: When it is there and cannot be read.
        ValueError: When it is no table.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        content = b""
    whole = content[: content.rfind(b"\n") + 1]
    return pd.read_csv(io.BytesIO(whole)) if whole else pd.DataFrame(columns=list(columns), dtype=float)
