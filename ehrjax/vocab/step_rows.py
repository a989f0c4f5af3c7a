"""Rows that a step adds: taken from existing rows, changed, and put before or after them."""

from __future__ import annotations

import polars as pl

# Set by a step; null means the code itself.
TOKEN = "str"
AT = "_at"


def beside(events: pl.DataFrame, where: pl.Expr | pl.Series) -> pl.DataFrame:
    """Copies of the rows where `where` is true, without value or text, with their row number in `_at`."""
    return _bare(events.with_row_index(AT).filter(where))


def at_rows(events: pl.DataFrame, rows: pl.Series) -> pl.DataFrame:
    """Copies of the rows with these numbers, as `beside`."""
    return _bare(events.with_row_index(AT)[rows])


def _bare(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(
        pl.lit(None, pl.Float32).alias("numeric_value"),
        pl.lit(None, pl.String).alias("text_value"),
        pl.lit(None, pl.Int32).alias("bin"),
    )


def added() -> pl.Expr:
    """True on rows that a step added (`named`): the token is the whole code."""
    return (pl.col(TOKEN) == pl.col("code")).fill_null(False)


def named(rows: pl.DataFrame, token: str | pl.Expr) -> pl.DataFrame:
    """The rows as the token `token`."""
    token = pl.lit(token) if isinstance(token, str) else token
    return rows.with_columns(token.alias("code"), token.alias(TOKEN))


def inserted(events: pl.DataFrame, *, before: list[pl.DataFrame] = (), after: list[pl.DataFrame] = ()) -> pl.DataFrame:
    """Puts added rows beside the rows they were made from (`_at`).

    Args:
      events: the rows.
      before: frames made by `beside`; where several stand before one row, in the order given.
      after: likewise behind their rows.
    """
    place = "_place"
    frames = [events.with_row_index(AT).with_columns(pl.lit(0, pl.Int16).alias(place))]
    for i, frame in enumerate(before):
        frames.append(frame.with_columns(pl.lit(i - len(before), pl.Int16).alias(place)))
    for i, frame in enumerate(after):
        frames.append(frame.with_columns(pl.lit(i + 1, pl.Int16).alias(place)))
    columns = frames[0].columns
    whole = pl.concat([frame.select(columns) for frame in frames])
    return whole.sort(AT, place, maintain_order=True).drop(AT, place)


def first_of_subject() -> pl.Expr:
    """True on the first row of each subject."""
    return (pl.col("subject_id") != pl.col("subject_id").shift(1)).fill_null(True)


def first_timed() -> pl.Expr:
    """True on the first row of each subject that has a time."""
    timed = pl.col("time").is_not_null()
    return timed & (first_of_subject() | pl.col("time").shift(1).is_null())
