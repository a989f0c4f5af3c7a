"""Candidates for labels: when is asked, who is excluded and why, what comes next, how far the record goes.

A candidate is a row with `subject_id` and `prediction_time`. It becomes a label unless a reason excludes it, and
every one of them is counted.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from ehrjax.core.errors import InputError
from ehrjax.ingest.labels.record import Record

# What a horizon that the record does not cover means for a label.
KEEP, EXCLUDE, COMPLETE = FOLLOW_UP = ("keep", "exclude", "complete")
MOST_DAYS = 100_000.0
# What the times of a dataset mean (dataset.json's pseudo_dates: good_for) and what a task needs of them.
ORDER, INTERVALS, CALENDAR = TIMES = ("order", "intervals", "calendar")

DEAD = "dead by the prediction time"
NO_FOLLOW_UP = "follow-up ends before the horizon"


@dataclass(frozen=True)
class Needs:
    """What a task with its settings asks of a dataset.

    Attributes:
      roles: without which it cannot be made.
      patterns: setting -> regular expressions, one of which must match a code of the dataset (none: not asked).
      times: how true times must be: ORDER, INTERVALS (also how much time lies between), or CALENDAR (also when).
    """

    roles: tuple[str, ...] = ()
    patterns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    times: str = INTERVALS


def at_least(where: str, value: float, least: float, *, most: float = MOST_DAYS) -> None:
    """Raises InputError unless a setting lies in [least, most]; `where` is its name."""
    if not least <= value <= most:
        raise InputError(f"config.{where} is {value}; it must lie between {least:g} and {most:g}.")


def positive(where: str, value: float, *, most: float = MOST_DAYS) -> None:
    """Raises InputError unless a setting lies in (0, most]; `where` is its name."""
    if not 0 < value <= most:
        raise InputError(f"config.{where} is {value}; it must be more than 0 and at most {most:g}.")


def one_of(where: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises InputError unless a setting is one of `choices`; `where` is its name."""
    if value not in choices:
        raise InputError(f"config.{where} is {value!r}; it must be one of {', '.join(choices)}.")


def date_or_none(where: str, text: str) -> datetime.datetime | None:
    """A setting that is an ISO date or time, or empty (None); InputError where it is neither."""
    try:
        time = datetime.datetime.fromisoformat(text) if text else None
    except ValueError as error:
        raise InputError(f"config.{where} is {text!r}; it must be a date such as 2024-12-31.") from error
    if time is not None and time.tzinfo is not None:
        raise InputError(f"config.{where} is {text!r}; MEDS times have no time zone, so it must have none.")
    return time


def exclude(frame: pl.DataFrame, *reasons: tuple[str, pl.Expr], ahead: frozenset[str] = frozenset()) -> pl.DataFrame:
    """Adds `excluded`: the first of (reason, condition) whose condition is true, else null.

    Reasons in `ahead`, which need what comes after the prediction time, count only where no other does, so that what
    comes later never changes a reason that is known at the prediction time.
    """
    ordered = sorted(reasons, key=lambda pair: pair[0] in ahead)
    return frame.with_columns(
        pl.coalesce(*(pl.when(condition).then(pl.lit(reason)) for reason, condition in ordered)).alias("excluded")
    )


def neighbour(
    frame: pl.DataFrame, rows: pl.DataFrame, *names: str, after: str, strict: bool = True, past: bool = False
) -> pl.DataFrame:
    """Joins the next row of each subject after a time, or the last one before it.

    Args:
      frame: [N] candidates with subject_id and the time column `after` (nulls find nothing).
      rows: subject_id, time, and the columns `names`; of rows at one time any may be taken.
      names: columns to join; "time" joins the time itself.
      after: the column of `frame` to compare with.
      strict: rows exactly at that time do not count.
      past: the last row before instead of the next after.

    Returns:
      [N] `frame` in its order with the columns `names`, null where there is no such row.
    """
    indexed = frame.with_row_index("_index")
    left = (
        indexed.select("_index", "subject_id", pl.col(after).alias("_at")).drop_nulls("_at").sort("subject_id", "_at")
    )
    right = rows.select(
        "subject_id",
        pl.col("time").alias("_time"),
        *(pl.col(name).alias(f"_{name}") for name in names if name != "time"),
    )
    right = right.sort("subject_id", "_time", maintain_order=True).with_columns(pl.col("_time").alias("_key"))
    found = left.join_asof(
        right,
        left_on="_at",
        right_on="_key",
        by="subject_id",
        strategy="backward" if past else "forward",
        allow_exact_matches=not strict,
        check_sortedness=False,
    )
    found = found.select("_index", *(pl.col(f"_{name}").alias(name) for name in names))
    return indexed.join(found, on="_index", how="left", maintain_order="left").drop("_index")


def with_subjects(frame: pl.DataFrame, record: Record, data_end: datetime.datetime | None = None) -> pl.DataFrame:
    """Adds each subject's birth, death, entry, last, and `observed_until`.

    A record is taken to be complete up to `data_end`, if given; else up to its last event, and after a death for
    ever, since nothing more can happen.
    """
    subjects = record.subjects
    if data_end is not None:
        until = pl.lit(data_end, pl.Datetime("us"))
    else:
        until = pl.when(pl.col("death").is_null()).then(pl.col("last"))
    subjects = subjects.with_columns(until.alias("observed_until"))
    have = [name for name in subjects.columns if name in frame.columns and name != "subject_id"]
    return frame.join(subjects.drop(have), on="subject_id", how="left", maintain_order="left")


def uncovered(horizon: datetime.timedelta) -> pl.Expr:
    """Whether the record ends before `prediction_time` + horizon (needs `with_subjects`)."""
    return (pl.col("prediction_time") + horizon > pl.col("observed_until")).fill_null(False)


def follow_up(choice: str, outcome: pl.Expr, horizon: datetime.timedelta) -> tuple[tuple[str, pl.Expr], pl.Expr]:
    """What to do where the record ends before the horizon (needs `with_subjects`).

    Args:
      choice: KEEP: the label stays, and no outcome on record counts as none. EXCLUDE: it is excluded, unless the
        outcome or the subject's death came within the horizon. COMPLETE: it is excluded whatever came.
      outcome: whether the outcome is on record within the horizon.
      horizon: how far the outcome is looked for.

    Returns:
      The (reason, condition) for `exclude`, and whether a label counts as `unobserved`.
    """
    dies = (pl.col("death") <= pl.col("prediction_time") + horizon).fill_null(False)
    open_ended = uncovered(horizon) & ~outcome & ~dies
    condition = {KEEP: pl.lit(False), EXCLUDE: open_ended, COMPLETE: uncovered(horizon)}[choice]
    return (NO_FOLLOW_UP, condition), open_ended


def end_of_day(time: pl.Expr) -> pl.Expr:
    """The last microsecond of the day of a time."""
    return time.dt.truncate("1d") + datetime.timedelta(days=1) - datetime.timedelta(microseconds=1)
