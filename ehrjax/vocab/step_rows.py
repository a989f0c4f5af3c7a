"""Rows that a step adds: taken from existing rows, changed, and put before or after them."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

# True on rows that a step added.
ADDED = "added"
AT = "_at"
_KEY = "_key"
# Places before, at and behind a row.
_PLACES = 16


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
    place = pl.int_range(pl.len(), dtype=pl.Int64) * _PLACES + _PLACES // 2
    whole = events.with_columns(place.alias(_KEY))
    columns = whole.columns
    places = [*range(-len(before), 0), *range(1, len(after) + 1)]
    for frame, at in zip((*before, *after), places):
        key = pl.col(AT).cast(pl.Int64) * _PLACES + _PLACES // 2 + at
        # Both are in order already, so they are merged, not sorted.
        whole = whole.merge_sorted(frame.with_columns(key.alias(_KEY)).select(columns), key=_KEY)
    return whole.drop(_KEY)


def first_of_subject() -> pl.Expr:
    """True on the first row of each subject."""
    return (pl.col("subject_id") != pl.col("subject_id").shift(1)).fill_null(True)


def first_timed() -> pl.Expr:
    """True on the first row of each subject that has a time."""
    timed = pl.col("time").is_not_null()
    return timed & (first_of_subject() | pl.col("time").shift(1).is_null())
