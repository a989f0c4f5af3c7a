"""Candidates at the ends of stays: discharges alive."""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.labels.candidates import DEAD, end_of_day, neighbour
from ehrjax.ingest.labels.record import Record

NO_DISCHARGE = "no discharge is recorded"
DIED_IN_STAY = "died in hospital"
ADMITTED_AGAIN = "admitted again by the prediction time"
IN_ANOTHER_STAY = "still in another stay"


def at_discharges(
    record: Record, *, to_end_of_day: bool = False, keep_overlaps: bool = False
) -> tuple[pl.DataFrame, list[tuple[str, pl.Expr]]]:
    """A candidate for each stay, at its discharge.

    Returns:
      `record.stays` with prediction_time (null where there is no discharge), and the reasons for exclusion: no
      discharge, a death in the stay or by the prediction time, another admission since the discharge, and another
      stay that began by then and whose recorded end comes later.
    """
    stays = record.stays
    time = end_of_day(pl.col("discharge")) if to_end_of_day else pl.col("discharge")
    frame = stays.with_columns(time.alias("prediction_time"))
    # The latest end of all stays that began by the prediction time.
    ends = stays.filter(pl.col("end").is_not_null()).select(
        "subject_id",
        pl.col("admission").alias("time"),
        pl.col("end").cum_max().over("subject_id").alias("latest_end"),
    )
    # Of several admissions at one time the last one has the largest maximum.
    ends = ends.unique(["subject_id", "time"], keep="last", maintain_order=True)
    frame = neighbour(frame, ends, "latest_end", after="prediction_time", strict=False, past=True)
    again = stays.select("subject_id", pl.col("admission").alias("time"))
    frame = neighbour(frame, again, "time", after="discharge").rename({"time": "admitted_again"})
    return frame, [
        (NO_DISCHARGE, pl.col("prediction_time").is_null()),
        (DIED_IN_STAY, pl.col("died")),
        (DEAD, pl.col("death") <= pl.col("prediction_time")),
        (ADMITTED_AGAIN, pl.col("admitted_again") <= pl.col("prediction_time")),
        (IN_ANOTHER_STAY, (pl.col("latest_end") > pl.col("prediction_time")) & pl.lit(not keep_overlaps)),
    ]
