"""Readmission: admitted to hospital again within 30 days of a discharge.

Eligible: every stay in hospital that ends in a discharge alive. Predicted at the discharge (or, with `end_of_day`, at
the last moment of the day of discharge, as EHRSHOT does; Guo et al. 2023). Outcome: the first admission strictly
after the prediction time comes within `horizon_days`, and its code matches none of `planned` (so an unplanned
admission that follows a planned one does not count for this discharge, as in the CMS measures).

Excluded: stays without a recorded discharge; stays that end in death; subjects dead, admitted again or still in
another stay (of overlapping ones; `keep_overlaps` keeps them) at the prediction time; with `transfer_hours`, discharges
that are followed by an admission within so many hours, since they are transfers and the later stay is asked instead.
An admission at the very moment of a discharge makes the subject still in a stay, not readmitted.

Censoring: a subject who dies within the horizon without an admission was not readmitted. Where the record ends before
the horizon, `follow_up` decides; by default no admission on record counts as none, as published cohorts do, and such
labels are counted as unobserved.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.labels import candidates
from ehrjax.ingest.labels.at_discharges import IN_ANOTHER_STAY, at_discharges
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.roles import check_patterns, matching

VALUE = "boolean_value"
EXTENSION: dict[str, pl.DataType] = {}
TRANSFERRED = "transferred"
LOOKS_AHEAD = frozenset({TRANSFERRED, IN_ANOTHER_STAY, candidates.NO_FOLLOW_UP})
ANCHORED_AHEAD = False


@dataclass(frozen=True)
class Settings:
    """Attributes:
    horizon_days: within how many days.
    end_of_day: predict at the end of the day of discharge.
    transfer_hours: an admission within so many hours is a transfer; 0: none is.
    planned: regular expressions of admission codes that are planned.
    keep_overlaps: ask at a discharge even while another, overlapping stay goes on.
    follow_up: keep, exclude or complete (`candidates.follow_up`).
    data_end: date or time up to which all records are complete; empty: each up to its last event.
    """

    horizon_days: float = 30.0
    end_of_day: bool = False
    transfer_hours: float = 0.0
    planned: tuple[str, ...] = ()
    keep_overlaps: bool = False
    follow_up: str = candidates.KEEP
    data_end: str = ""

    def __post_init__(self) -> None:
        candidates.positive("horizon_days", self.horizon_days)
        candidates.at_least("transfer_hours", self.transfer_hours, 0)
        candidates.one_of("follow_up", self.follow_up, candidates.FOLLOW_UP)
        candidates.date_or_none("data_end", self.data_end)
        object.__setattr__(self, "planned", check_patterns(self.planned, "config.planned"))


def needs(settings: Settings) -> candidates.Needs:
    times = candidates.CALENDAR if settings.end_of_day or settings.data_end else candidates.INTERVALS
    return candidates.Needs(("admission", "discharge"), {"planned": settings.planned}, times)


def label(record: Record, settings: Settings) -> pl.DataFrame:
    """The candidates (`ehrjax.ingest.labels.tasks`)."""
    horizon = datetime.timedelta(days=settings.horizon_days)
    frame, reasons = at_discharges(record, to_end_of_day=settings.end_of_day, keep_overlaps=settings.keep_overlaps)
    frame = candidates.with_subjects(frame, record, candidates.date_or_none("data_end", settings.data_end))
    planned = matching(record.stays["admission_code"], settings.planned).alias("planned")
    admissions = (
        record.stays.select("subject_id", pl.col("admission").alias("time"), planned)
        .group_by("subject_id", "time")
        .agg(pl.col("planned").all())
    )
    frame = candidates.neighbour(frame, admissions, "time", "planned", after="prediction_time")
    soon = pl.col("time") <= pl.col("prediction_time") + horizon
    outcome = (soon & ~pl.col("planned")).fill_null(False)
    transferred = pl.col("admitted_again") <= pl.col("discharge") + datetime.timedelta(hours=settings.transfer_hours)
    lost, unobserved = candidates.follow_up(settings.follow_up, outcome, horizon)
    frame = frame.with_columns(outcome.alias(VALUE), unobserved.alias("unobserved"))
    return candidates.exclude(frame, *reasons, (TRANSFERRED, transferred), lost, ahead=LOOKS_AHEAD)
