"""Tables to which another process may be writing."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

EXACT: dict[str, Any] = {} if int(pd.__version__.partition(".")[0]) >= 3 else {"float_precision": "round_trip"}
"""The options with which pandas reads numbers to the last bit, as it does from version 3 on without being asked."""


def read_growing(path: str | Path, columns: Sequence[str], *, few_texts: Sequence[str] = ()) -> pd.DataFrame:
    """The complete lines of a CSV file, without an unfinished line that a process has left at its end.

    Args:
        path: The file; a missing file counts as empty.
        columns: The columns of an empty file.
        few_texts: Columns of few different texts, each of which is stored once, as a category.

    Raises:
        OSError: If the file exists and cannot be read.
        ValueError: If it is not a table.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        content = b""
    whole = content[: content.rfind(b"\n") + 1]
    if not whole:
        return pd.DataFrame(columns=list(columns), dtype=float)
    texts: Any = dict.fromkeys(few_texts, "category")
    # What stands for no number may be the name of a layer.
    missing: Any = {
        name: [""] if name in few_texts else ["", "nan"] for name in pd.read_csv(io.BytesIO(whole), nrows=0)
    }
    return whole_csv(whole, dtype=texts, na_values=missing)


def whole_csv(content: bytes, **options: Any) -> pd.DataFrame:
    """A CSV file as pandas reads it, with numbers to the last bit, whose lines have no more values than its header.

    Raises:
        ValueError: If they have more, of which pandas otherwise makes an index, so that values move to other columns.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(io.BytesIO(content), index_col=False, keep_default_na=False, **options, **EXACT)
        except pd.errors.ParserWarning:
            raise ValueError("its lines have more values than its header") from None
