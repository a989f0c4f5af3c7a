"""Rows that a step adds: taken from existing rows, changed, and put before or after them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

# True on rows that a step added.
ADDED = "added"
AT = "_at"
# More than the places before, at and behind a row.
_PLACES = 64


def beside(events: pl.DataFrame, where: pl.Expr | pl.Series) -> pl.DataFrame:
    """Copies of the rows where `where` is true, without value, with their row number in `_at`."""
    return _bare(events.with_row_index(AT).filter(where))


def at_rows(events: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """Copies of the rows with these numbers, as `beside`."""
    return _bare(events.with_row_index(AT)[rows])


def _bare(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        pl.lit(None, pl.Float32).alias("numeric_value"),
        pl.lit(None, pl.Int32).alias("bin"),
    )


def named(rows: pl.DataFrame, token: str | pl.Expr) -> pl.DataFrame:
    """The rows as the added token `token`."""
    token = pl.lit(token) if isinstance(token, str) else token
    return rows.with_columns(token.alias("code"), pl.lit(True).alias(ADDED))


def inserted(
    events: pl.DataFrame, *, before: Sequence[pl.DataFrame] = (), after: Sequence[pl.DataFrame] = ()
) -> pl.DataFrame:
    """Puts added rows beside the rows they were made from (`_at`).

    Args:
      events: the rows.
      before: frames made by `beside`, in the order of their rows; where several stand before one row, in the order
        given.
      after: likewise behind their rows.
    """
    places = [*range(-len(before), 0), 0, *range(1, len(after) + 1)]
    frames = [*before, events, *after]
    at = [np.arange(len(frame)) if frame is events else frame[AT].to_numpy() for frame in frames]
    keys = [rows.astype(np.int64) * _PLACES + place for rows, place in zip(at, places)]
    # Each part is in order already, so a stable sort only merges them.
    order = np.argsort(np.concatenate(keys), kind="stable")
    # Added codes are Strings, others may be Categorical.
    alike = [frame if frame is events else frame.cast({"code": events.schema["code"]}) for frame in frames]
    return pl.concat([frame.select(events.columns) for frame in alike], rechunk=True)[order]


def first_of_subject() -> pl.Expr:
    """True on the first row of each subject."""
    return (pl.col("subject_id") != pl.col("subject_id").shift(1)).fill_null(True)


def first_timed() -> pl.Expr:
    """True on the first row of each subject that has a time."""
    timed = pl.col("time").is_not_null()
    return timed & (first_of_subject() | pl.col("time").shift(1).is_null())
