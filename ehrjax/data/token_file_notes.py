"""Clinical notes beside token files: pickles become one table of notes (`ingest.notes`).

Rows are in the order of the files, a subject's notes by time.
"""

from __future__ import annotations

import datetime
import numbers
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data.token_file_records import integers, records, subject_of
from ehrjax.ingest.notes import FRAME, NO_TEXT, SCHEMA
from ehrjax.ingest.raw_csv import DATE_FORMAT, OTHER_TIME_FORMATS, TIME_FORMAT
from ehrjax.ingest.raw_tables import FIRST_TIME, LAST_TIME, OUT_OF_RANGE

_LAST_MICROSECOND = datetime.timedelta(days=1) - datetime.timedelta(microseconds=1)
_FORMATS = tuple(f.replace("%S%.f", "%S.%f") for f in (TIME_FORMAT, *OTHER_TIME_FORMATS)) + ("%Y-%m-%dT%H:%M:%S",)


def find(folder: Path) -> list[Path]:
    """The note files below a folder, in name order; none if there is no such folder."""
    return sorted(folder.rglob("*.pkl")) if folder.is_dir() else []


def write(paths: Sequence[Path], output: Path, subjects: np.ndarray) -> dict[str, object]:
    """Writes the notes of some subjects.

    Args:
      paths: pickles of [{subject_id, notes: [{note_id, charttime, token_ids or text}, ...]}, ...].
      output: the parquet file.
      subjects: [N] int64, the subjects that have tokens.

    Returns:
      rows = written + sum(set_aside) over the notes.

    Raises:
      InputError: a file does not have the format.
    """
    known = set(subjects.tolist())
    rows, set_aside = 0, Counter[str]()
    with files.written_file(output) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for path in paths:
            kept = []
            for number, record in enumerate(records(path)):
                subject = subject_of(record, path, number)
                notes = record.get("notes")
                if not isinstance(notes, list) or not all(isinstance(note, dict) for note in notes):
                    raise InputError(f"{path}, record {number} has no list of dicts 'notes'; write the file again.")
                rows += len(notes)
                for note in notes:
                    row = _note(subject, note, f"{path}, record {number}")
                    reason = row if isinstance(row, str) else None if subject in known else "subject has no tokens"
                    if reason:
                        set_aside[reason] += 1
                    else:
                        kept.append(row)
            if kept:
                frame = pl.DataFrame(kept, schema=FRAME, orient="row")
                first = pl.int_range(pl.len()).first().over("subject_id")
                frame = frame.with_columns(first.alias("place")).sort("place", "time", maintain_order=True)
                table = frame.drop("place").to_arrow(compat_level=pl.CompatLevel.oldest())
                writer.write_table(table.cast(SCHEMA))
    aside = dict(sorted(set_aside.items()))
    return {"rows": rows, "written": rows - sum(aside.values()), "set_aside": aside}


def _note(subject: int, note: dict[str, Any], where: str) -> tuple | str:
    """A row of notes.parquet, or why there is none."""
    time = _time(note.get("charttime"))
    text, tokens = note.get("text"), note.get("token_ids")
    if time is None:
        return "no charttime"
    if not FIRST_TIME <= time < LAST_TIME:
        return OUT_OF_RANGE
    if text is None and tokens is None:
        return NO_TEXT
    if text is not None and not isinstance(text, str):
        raise InputError(f"{where}: the 'text' of a note is not text; write the file again.")
    if tokens is not None:
        tokens = integers(tokens, f"{where}: 'token_ids'")
        if tokens.size and (tokens.min() < 0 or tokens.max() >= 2**31):
            raise InputError(f"{where}: 'token_ids' holds ids that do not fit 32 bits; write the file again.")
        tokens = tokens.tolist()
    number = note.get("note_id")
    return subject, time, None if number is None else str(number), text, tokens


def _time(value: Any) -> datetime.datetime | None:
    """A time; the end of the day where only that is known; None where it cannot be told."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.UTC).replace(tzinfo=None) if value.tzinfo else value
    if isinstance(value, datetime.date):
        return datetime.datetime.combine(value, datetime.time()) + _LAST_MICROSECOND
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        try:
            return datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=float(value))
        except (OverflowError, ValueError):
            return None
    if not isinstance(value, str):
        return None
    for form in _FORMATS:
        try:
            return datetime.datetime.strptime(value.strip(), form)
        except ValueError:
            continue
    try:
        return datetime.datetime.strptime(value.strip(), DATE_FORMAT) + _LAST_MICROSECOND
    except (ValueError, OverflowError):
        return None
