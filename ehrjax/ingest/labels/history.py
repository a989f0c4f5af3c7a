"""What a model may see of a subject at a prediction time: static rows, and every event up to and including it."""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.meds import order_events

LABEL = "label"


def known_rows(events: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """Where the history of each label lies in a table of events.

    Since static rows come first and the others follow in order of time, a history is a run of rows.

    Args:
      events: subject_id and time of whole subjects in MEDS order.
      labels: [N] subject_id and prediction_time (inclusive), in any order; more columns are ignored.

    Returns:
      [N] `start` and `count` (int64): the first row of the subject and how many of its rows are known; 0 and 0 for a
      subject without events.
    """
    rows = events.select("subject_id", "time").with_row_index("row")
    starts = rows.group_by("subject_id").agg(
        pl.col("row").min().cast(pl.Int64).alias("start"), pl.col("time").is_null().sum().cast(pl.Int64).alias("static")
    )
    asked = labels.select("subject_id", pl.col("prediction_time").cast(pl.Datetime("us"))).with_row_index("_label")
    # Events and questions in one line: at one time the events come first, since a prediction time is inclusive.
    line = pl.concat(
        [
            rows.filter(pl.col("time").is_not_null()).select(
                "subject_id", "time", pl.lit(None, pl.UInt32).alias("_label"), pl.lit(0, pl.Int8).alias("asks")
            ),
            asked.select(
                "subject_id", pl.col("prediction_time").alias("time"), "_label", pl.lit(1, pl.Int8).alias("asks")
            ),
        ]
    ).sort("subject_id", "time", "asks")
    line = line.with_columns((1 - pl.col("asks").cast(pl.Int64)).cum_sum().over("subject_id").alias("before"))
    counts = line.filter(pl.col("asks") == 1).select("_label", "before")
    frame = asked.join(counts, on="_label", how="left", maintain_order="left")
    frame = frame.join(starts, on="subject_id", how="left", maintain_order="left")
    return frame.select(pl.col("start").fill_null(0), (pl.col("before") + pl.col("static")).fill_null(0).alias("count"))


def history_at(events: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
    """The events that are known at each label's prediction time.

    Args:
      events: MEDS rows of whole subjects.
      labels: [N] subject_id and prediction_time (inclusive); more columns are ignored.

    Returns:
      The columns of `events` with `label`, the row number of the label, in front; by label, each in MEDS order. A
      subject's events appear once for each of its labels.
    """
    events = order_events(events)
    found = known_rows(events, labels).with_row_index(LABEL)
    rows = pl.int_ranges(pl.col("start"), pl.col("start") + pl.col("count")).alias("_row")
    found = found.filter(pl.col("count") > 0).select(LABEL, rows).explode("_row", empty_as_null=False)
    return events.select(pl.all().gather(found["_row"])).with_columns(found[LABEL]).select(LABEL, *events.columns)
