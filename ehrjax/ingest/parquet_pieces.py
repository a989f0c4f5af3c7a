"""Parquet files whose columns are lists or durations, in bounded pieces; `raw_parquet` reads the plain ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core.errors import InputError
from ehrjax.ingest.raw_csv import ROW


def columns_of(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
      InputError: the file is truncated, is no parquet file, or has a name twice.
    """
    names = _opened(path).schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has the column {twice[0]!r} more than once; write the file again.")
    return names


def check_columns(path: Path, required: Sequence[str]) -> list[str]:
    """`columns_of`, which must include `required`; InputError names what is missing."""
    there = columns_of(path)
    missing = [name for name in required if name not in there]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(map(repr, missing))}; check that it is the table its name says."
        )
    return there


def num_rows(path: Path) -> int:
    """How many rows the footer promises."""
    return _opened(path).metadata.num_rows


def pieces(
    path: Path, columns: Sequence[str], *, rows: int, first: int = 0, on_bytes: Callable[[int], None] | None = None
) -> Iterator[pl.DataFrame]:
    """Yields the columns in pieces of at most `rows` rows, with `row`, numbered from `first` on.

    Raises:
      InputError: the file is damaged.
    """
    file = _opened(path)
    total, size, done = max(file.metadata.num_rows, 1), path.stat().st_size, 0
    try:
        for batch in file.iter_batches(batch_size=rows, columns=list(columns), use_threads=False):
            if batch.num_rows:
                frame = pl.DataFrame(pl.from_arrow(batch)).select(columns)
                yield frame.with_row_index(ROW, offset=first + done).cast({ROW: pl.Int64})
                done += batch.num_rows
                if on_bytes:
                    on_bytes(size * done // total)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged in its data pages; copy it again.") from error


def whole_numbers(column: pl.Series, path: Path) -> pl.Series:
    """A column of ids as Int64, also where pandas kept it as floats because some are missing.

    Raises:
      InputError: it holds anything else.
    """
    dtype = column.dtype
    if dtype.is_integer() or dtype == pl.Null:
        # An unsigned id beyond int64 is no id of MEDS.
        return column.cast(pl.Int64, strict=False)
    if dtype.is_float():
        finite = column.set(~column.is_finite().fill_null(False), None)
        if bool((finite.drop_nulls() % 1 == 0).all()):
            return finite.cast(pl.Int64, strict=False)
    raise InputError(f"{path}: the column {column.name!r} holds {dtype}, which is not whole numbers.")


def numbers(column: pl.Series, path: Path) -> pl.Series:
    """A column of numbers as Float64; NaN and infinite ones become null.

    Raises:
      InputError: it holds anything else.
    """
    dtype = column.dtype
    if not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Null)):
        raise InputError(f"{path}: the column {column.name!r} holds {dtype}, which is not numbers.")
    number = column.cast(pl.Float64)
    return number.set(~number.is_finite().fill_null(False), None)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is truncated or is no parquet file; copy it again.") from error
