"""Clinical notes as a table: when each became readable, and its text or the ids that a text tokenizer made of it.

notes.parquet: subject_id int64, time timestamp[us] (from then on the note may be read), note_id string, text
large_string (null where the source holds only tokens), token_ids list<int32> (of the source's own text tokenizer; null
where it holds text). Tables of others are read too: subject_id, text, charttime (or time), and if there are any
storetime and note_id, as MIMIC-IV-Note's discharge.csv.gz and radiology.csv.gz have them
(https://physionet.org/content/mimic-iv-note).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core.errors import InputError
from ehrjax.ingest import raw_files
from ehrjax.ingest.raw_csv import Kind

FILE = "notes.parquet"
FOLDER = "notes"
SCHEMA = pa.schema(
    [
        pa.field("subject_id", pa.int64(), nullable=False),
        pa.field("time", pa.timestamp("us"), nullable=False),
        pa.field("note_id", pa.string()),
        pa.field("text", pa.large_string()),
        pa.field("token_ids", pa.list_(pa.int32())),
    ]
)
FRAME = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "note_id": pl.String,
    "text": pl.String,
    "token_ids": pl.List(pl.Int32),
}
NO_TIME, NO_TEXT, NO_SUBJECT = "no time", "neither text nor token_ids", "no subject_id"
PIECE_ROWS = 4096
_TIMES = {"charttime": Kind.TIME, "time": Kind.TIME, "storetime": Kind.TIME}


def find(path: str | Path) -> Path:
    """The file of notes that a path names: itself, or notes/notes.parquet in a folder of events or tokens.

    Raises:
      InputError: there is none.
    """
    path = Path(path)
    if path.is_file():
        return path
    for inside in (path / FOLDER / FILE, path / FILE):
        if inside.is_file():
            return inside
    raise InputError(f"{path} is no file of notes and no folder with {FOLDER}/{FILE}.")


def pieces(path: Path, set_aside: Counter[str]) -> Iterator[pl.DataFrame]:
    """Yields the notes of a file in pieces with the columns of FRAME, in the order of the file.

    A note counts from its storetime where that is later: before it nobody could read it. Notes without a subject, a
    charttime or a text are counted in `set_aside` and left out.

    Raises:
      InputError: the file is damaged, lacks a column, or holds what is no time.
    """
    for frame in _ours(path) if path.suffix == ".parquet" and _is_ours(path) else _others(path):
        nothing = pl.col("text").is_null() & pl.col("token_ids").is_null()
        why = (
            pl.when(pl.col("subject_id").is_null())
            .then(pl.lit(NO_SUBJECT))
            .when(pl.col("time").is_null())
            .then(pl.lit(NO_TIME))
            .when(nothing)
            .then(pl.lit(NO_TEXT))
        )
        frame = frame.with_columns(why.alias("why"))
        set_aside.update(frame["why"].drop_nulls().to_list())
        yield frame.filter(pl.col("why").is_null()).select(*FRAME)


def _is_ours(path: Path) -> bool:
    return set(SCHEMA.names) <= set(raw_files.columns_of(path))


def _ours(path: Path) -> Iterator[pl.DataFrame]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(PIECE_ROWS, columns=SCHEMA.names):
            yield pl.DataFrame(pl.from_arrow(batch)).cast(FRAME)
    except (pa.ArrowException, OSError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{path} is damaged or its columns have other types than notes have; make it again."
        ) from error


def _others(path: Path) -> Iterator[pl.DataFrame]:
    times = raw_files.present(path, _TIMES)
    if not times.keys() & {"charttime", "time"}:
        raise InputError(f"{path} has no column 'charttime' (or 'time'); a note counts from its time on.")
    columns = {"subject_id": Kind.ID, "text": Kind.TEXT}
    known = pl.coalesce(name for name in ("charttime", "time") if name in times)
    if "storetime" in times:
        known = pl.when(known.is_not_null()).then(pl.max_horizontal(known, "storetime"))
    for frame in raw_files.read_batches(path, columns, optional={**times, "note_id": Kind.TEXT}):
        frame = frame.with_columns(known.alias("time"), pl.lit(None, pl.List(pl.Int32)).alias("token_ids"))
        for piece in frame.iter_slices(PIECE_ROWS):
            yield piece.select(*FRAME)
