"""Notes written from coded visits, for data without notes: what a visit's codes mean, as a text.

A note says nothing that the visit's codes do not, but in words, so that a text encoder meets what a vocabulary holds as
unrelated numbers. Its time is that of the visit's last event.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.ingest import meds
from ehrjax.ingest.notes import FRAME, SCHEMA

CHUNK_EVENTS = 500_000
_NEVER = ("MEDS_BIRTH", "MEDS_DEATH")

Progress = Callable[[str, int, int], None]


def write(source: str | Path, output: str | Path, *, progress: Progress | None = None) -> dict[str, object]:
    """Writes a note for each visit of a MEDS dataset; where it knows no visits, for each day.

    Args:
      source: the MEDS folder.
      output: the notes.parquet to write.
      progress: called with what is done, pieces done, and pieces in all.

    Returns:
      notes, subjects.

    Raises:
      InputError: the dataset is damaged, or has no event with a time.
    """
    dataset = meds.open_dataset(source)
    meanings = dict(dataset.codes.select("code", pl.coalesce("description", "code")).iter_rows())
    notes, subjects = 0, 0
    chunks = list(dataset.chunks(CHUNK_EVENTS))
    with files.written_file(output) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for number, chunk in enumerate(chunks):
            frame = of_events(dataset.read_chunk(chunk), meanings)
            writer.write_table(frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(SCHEMA))
            notes, subjects = notes + len(frame), subjects + frame["subject_id"].n_unique()
            if progress:
                progress("writing notes", number + 1, len(chunks))
        if not notes:
            raise InputError(f"{source} holds no events with a time, so there are no visits to write notes of.")
    return {"notes": notes, "subjects": subjects}


def of_events(events: pl.DataFrame, meanings: dict[str, str]) -> pl.DataFrame:
    """The notes of whole subjects.

    Args:
      events: in MEDS order.
      meanings: code -> description; a code without one stands for itself.

    Returns:
      The columns of FRAME, subjects in the order of the events, each one's notes by time.
    """
    events = events.filter(pl.col("time").is_not_null() & ~pl.col("code").is_in(_NEVER))
    visit = pl.lit("day ") + pl.col("time").dt.strftime("%Y-%m-%d")
    if events[meds.VISIT_COLUMN].count():
        visit = pl.coalesce(pl.col(meds.VISIT_COLUMN).cast(pl.String), visit)
    meaning = pl.col("code").replace_strict(meanings, default=pl.col("code"))
    # Four digits tell what a reader would be told.
    number = pl.col("numeric_value").cast(pl.Float64).round_sig_figs(4).cast(pl.String)
    number = number.str.strip_suffix(".0")
    said = pl.concat_str(meaning, pl.when(number.is_not_null()).then(pl.lit(": ") + number), ignore_nulls=True)
    notes = (
        events.with_columns(visit.alias("visit"), said.alias("said"))
        .group_by("subject_id", "visit", maintain_order=True)
        .agg(pl.col("time").max(), pl.col("said").unique(maintain_order=True).str.join("; ").alias("text"))
        .with_columns(pl.int_range(pl.len()).first().over("subject_id").alias("place"))
        .sort("place", "time", maintain_order=True)
    )
    return notes.select(
        "subject_id",
        "time",
        pl.format("{}-{}", "subject_id", "visit").str.replace(" ", "-").alias("note_id"),
        pl.col("text") + ".",
        pl.lit(None, pl.List(pl.Int32)).alias("token_ids"),
    ).cast(FRAME)
