"""Candidates at the ends of visits, and the visits that follow."""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.labels.candidates import neighbour, with_subjects
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.meds import VISIT_COLUMN


def at_visit_ends(record: Record, visits: pl.Series, gap_hours: float) -> pl.DataFrame:
    """A candidate at the last event of each of some visits, and the next of them.

    Args:
      record: the subjects' events.
      visits: row numbers of `record.visits(gap_hours)`, in any order.
      gap_hours: as there.

    Returns:
      subject_id, visit_id, visit (the number among these visits of the subject, from 0), prediction_time, this_visit
      and next_visit (row numbers; the next one starts strictly after the prediction time, null where there is none),
      next_start, death.
    """
    table = record.visits(gap_hours).with_row_index("this_visit")
    table = table.with_columns(pl.col("this_visit").cast(pl.Int64))
    chosen = table.filter(pl.col("this_visit").is_in(visits.cast(pl.Int64).implode()))
    frame = chosen.select(
        "subject_id",
        VISIT_COLUMN,
        pl.int_range(pl.len(), dtype=pl.Int32).over("subject_id").alias("visit"),
        pl.col("end").alias("prediction_time"),
        "this_visit",
    )
    # Of visits that start together the first in the record is the next one.
    starts = chosen.unique(["subject_id", "start"], keep="first", maintain_order=True).select(
        "subject_id", pl.col("start").alias("time"), pl.col("this_visit").alias("next_visit")
    )
    frame = neighbour(frame, starts, "time", "next_visit", after="prediction_time").rename({"time": "next_start"})
    return with_subjects(frame, record)
