"""The columns of saved tables, which are checked when a result is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NotRequired, Union, get_args, get_origin, get_type_hints

import pandas as pd

from gradlab.errors import GradlabError, reason_of
from gradlab.results.growing import whole_csv

WORDS = {str: "text", int: "whole numbers", float: "numbers", bool: "True or False"}
"""What a column of each type contains."""


def read_table(path: Path, row: type, digest: str | None = None, *, few_texts: bool = False) -> pd.DataFrame:
    """A saved table, after checking its columns.

    Args:
        path: A CSV file.
        row: The types of the columns, a TypedDict; those that may have missing values are `TYPE | None`.
        digest: The SHA-256 of the file; None if it is not known.
        few_texts: Whether each text is stored once, as a category, however many rows have it.

    Raises:
        GradlabError: If the file is missing, is another one than the digest's, or has other columns.
    """
    columns = get_type_hints(row, include_extras=True)
    kind: Any = "category" if few_texts else str
    texts = {name: kind for name, column in columns.items() if str in _allowed(column)}
    try:
        content = path.read_bytes()
        frame = whole_csv(content, na_values=[""], dtype=texts)
    except pd.errors.EmptyDataError:
        frame = pd.DataFrame()
    except (OSError, ValueError) as error:
        raise GradlabError(f"{path} is no whole table: {reason_of(error)}") from None
    if digest is not None and digest != hashlib.sha256(content).hexdigest():
        raise GradlabError(f"{path} is not the file that its record describes: measure again")
    return frame if frame.empty else check_columns(frame, columns, path)


def check_columns(frame: pd.DataFrame, columns: Mapping[str, Any], path: str | Path) -> pd.DataFrame:
    """The frame, after checking that it has these columns, with values of their types.

    Raises:
        GradlabError: If a column is missing, or contains something else.
    """
    for name, column in columns.items():
        if name not in frame:
            if get_origin(column) is NotRequired:
                continue
            raise GradlabError(f"{path} has no column {name}: it is damaged or from another version; measure again")
        allowed = _allowed(column)
        values = frame[name]
        if NoneType not in allowed and values.isna().any():
            raise GradlabError(f"{path} lacks a value in column {name}: it is damaged; measure again")
        kind = next(one for one in allowed if one is not NoneType)
        if not _fits(values.dropna(), kind):
            raise GradlabError(f"{path} is damaged: column {name} must contain {WORDS[kind]}; measure again")
    return frame


def _allowed(column: Any) -> tuple[Any, ...]:
    """The types of a column's values, with that of None if they may be missing."""
    inner = get_args(column)[0] if get_origin(column) is NotRequired else column
    return get_args(inner) if get_origin(inner) in (Union, type(int | None)) else (inner,)


def _fits(values: pd.Series, kind: type) -> bool:
    """Whether all values are of the type; a column without values fits every type."""
    if values.empty or kind is str:
        return True
    if kind is bool:
        return bool(values.map(lambda value: isinstance(value, bool)).all())
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return numeric and (kind is float or bool((values % 1 == 0).all()))
