"""Candidates for the first event of a code set: of whom, and when, it is asked."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates
from ehrjax.ingest.labels.at_discharges import at_discharges
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.roles import check_patterns

AT_DISCHARGE, PERIODICALLY = PREDICT = ("discharge", "every")
HAS_IT = "on record by the prediction time"
TOO_YOUNG = "below the least age, or age unknown"
SHORT_HISTORY = "history too short"


@dataclass(frozen=True)
class Asked:
    """Of whom and when; the settings that the tasks on first events share.

    Attributes:
      codes: regular expressions that match a code from its start.
      predict: discharge (at each discharge alive) or every (periodically).
      every_days: the period of predict="every".
      min_history_days, min_age_years: what is asked of a subject at the prediction time.
      data_end: date or time up to which all records are complete; empty: each up to its last event.
    """

    codes: tuple[str, ...] = ()
    predict: str = AT_DISCHARGE
    every_days: float = 365.0
    min_history_days: float = 0.0
    min_age_years: float = 0.0
    data_end: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "codes", check_patterns(self.codes, "config.codes"))
        candidates.one_of("predict", self.predict, PREDICT)
        candidates.at_least("every_days", self.every_days, 1)
        candidates.at_least("min_history_days", self.min_history_days, 0)
        candidates.at_least("min_age_years", self.min_age_years, 0, most=150)
        candidates.date_or_none("data_end", self.data_end)

    @property
    def until(self) -> datetime.datetime | None:
        """`data_end` as a time."""
        return candidates.date_or_none("data_end", self.data_end)


def needs(settings: Asked) -> candidates.Needs:
    """The roles and codes that a task on first events needs."""
    roles = ("admission", "discharge") if settings.predict == AT_DISCHARGE else ()
    times = candidates.CALENDAR if settings.data_end else candidates.INTERVALS
    return candidates.Needs(roles, {"codes": settings.codes}, times)


def ask(record: Record, settings: Asked) -> tuple[pl.DataFrame, list[tuple[str, pl.Expr]]]:
    """The candidates, with `with_subjects` and `first_event`, and the reasons for exclusion known at their times."""
    if settings.predict == AT_DISCHARGE:
        frame, reasons = at_discharges(record)
    else:
        frame, reasons = periodic(record, days=settings.every_days, until=settings.until), []
    frame = candidates.with_subjects(frame, record, settings.until)
    frame, has_it = first_event(frame, record.having(settings.codes))
    known = history_reasons(settings.min_history_days, settings.min_age_years)
    return frame, [*reasons, (HAS_IT, has_it), *known]


def periodic(record: Record, *, days: float, until: datetime.datetime | None) -> pl.DataFrame:
    """Candidates every so many days from the subject's first event (births aside), the first after one period.

    They go on while the subject lives and the record lasts (`until`, or else the last event).

    Returns:
      subject_id, prediction_time.
    """
    step = int(datetime.timedelta(days=days) / datetime.timedelta(microseconds=1))
    end = pl.lit(until, pl.Datetime("us")) if until is not None else pl.col("last")
    length = (end - pl.col("entry")).dt.total_microseconds()
    alive = (pl.col("death") - pl.col("entry")).dt.total_microseconds() - 1
    count = (pl.min_horizontal(length, alive) // step).clip(lower_bound=0)
    frame = record.subjects.filter(pl.col("entry").is_not_null()).select(
        "subject_id", "entry", pl.int_ranges(1, count + 1).alias("number")
    )
    frame = frame.explode("number", empty_as_null=False, keep_nulls=False)
    return frame.select(
        "subject_id", (pl.col("entry") + pl.duration(microseconds=pl.col("number") * step)).alias("prediction_time")
    )


def history_reasons(min_history_days: float, min_age_years: float) -> list[tuple[str, pl.Expr]]:
    """Reasons for exclusion by what is known at the prediction time (needs `with_subjects`)."""
    history = pl.col("prediction_time") - pl.col("entry")
    age = pl.col("prediction_time") - pl.col("birth")
    enough = history >= datetime.timedelta(days=min_history_days)
    old = age >= datetime.timedelta(days=365.25 * min_age_years)
    return [
        (SHORT_HISTORY, ~enough.fill_null(False)),
        (TOO_YOUNG, ~old.fill_null(False) if min_age_years > 0 else pl.lit(False)),
    ]


def first_event(frame: pl.DataFrame, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Expr]:
    """Adds `first_event`, the subject's first row of `rows` with a time; and whether one stands there by then.

    Args:
      frame: candidates.
      rows: subject_id and time of the events of a code set; static ones count as having always been there.
    """
    firsts = rows.group_by("subject_id").agg(
        pl.col("time").min().alias("first_event"), pl.col("time").is_null().any().alias("static_event")
    )
    frame = frame.join(firsts, on="subject_id", how="left", maintain_order="left")
    return frame, pl.col("static_event") | (pl.col("first_event") <= pl.col("prediction_time"))
