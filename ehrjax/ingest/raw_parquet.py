"""Reading large parquet tables in bounded pieces, with the columns and types that `raw_csv` gives.

Typed columns are taken as they are; text columns are parsed as in a CSV file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from ehrjax.core.errors import InputError
from ehrjax.ingest.raw_csv import ROW, Kind, end_of_day, parse

BATCH_ROWS = 200_000


def column_names(path: Path) -> list[str]:
    """The columns of a parquet file.

    Raises:
      InputError: it is truncated or no parquet file.
    """
    return pq.ParquetFile(_checked(path)).schema_arrow.names


def read_batches(
    path: Path,
    columns: Mapping[str, Kind],
    *,
    batch_rows: int = BATCH_ROWS,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yields a table in pieces.

    Args:
      path: a parquet file.
      columns: the columns to read (matched without regard to case) and what each holds.
      batch_rows: rows a piece.
      on_bytes: called with about how many bytes of the file were read so far.

    Yields:
      Frames as `raw_csv.read_batches` yields them.

    Raises:
      InputError: the file is damaged, a column is missing, or a value is not what its column should hold.
    """
    file = pq.ParquetFile(_checked(path))
    by_name = {name.lower(): name for name in reversed(file.schema_arrow.names)}
    missing = [name for name in columns if name.lower() not in by_name]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(map(repr, missing))}; "
            "check that it is the table its name says, in its published layout."
        )
    actual = {name: by_name[name.lower()] for name in columns}
    first, total, size = 0, max(file.metadata.num_rows, 1), path.stat().st_size
    try:
        for batch in file.iter_batches(batch_size=batch_rows, columns=list(actual.values())):
            if not batch.num_rows:
                continue
            frame = pl.DataFrame(pl.from_arrow(batch)).select(pl.col(actual[name]).alias(name) for name in columns)
            frame = frame.with_row_index(ROW, offset=first).cast({ROW: pl.Int64})
            first += len(frame)
            yield _typed(frame, columns, path)
            if on_bytes:
                on_bytes(size * first // total)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is damaged in its data pages; copy it again.") from error


def _checked(path: Path) -> Path:
    try:
        pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is truncated or is no parquet file; copy it again.") from error
    return path


def _typed(frame: pl.DataFrame, columns: Mapping[str, Kind], path: Path) -> pl.DataFrame:
    """Casts typed columns; hands text columns to the CSV parser."""
    text = {name: kind for name, kind in columns.items() if frame[name].dtype == pl.String}
    out = parse(frame.select(ROW, *text), text, path)
    for name, kind in columns.items():
        if name in text:
            continue
        out = out.with_columns(_cast(frame[name], kind, path))
    return out.select(ROW, *columns)


def _cast(column: pl.Series, kind: Kind, path: Path) -> pl.Series:
    dtype = column.dtype
    if dtype == pl.Null:
        return column.cast(TYPES[kind])
    if kind is Kind.TEXT and not dtype.is_nested():
        # A whole number kept as a float (a nullable column of pandas) reads as a whole number.
        whole = dtype.is_float() and bool((column.drop_nulls().drop_nans() % 1 == 0).all())
        return (column.fill_nan(None).cast(pl.Int64) if whole else column).cast(pl.String)
    if kind is Kind.ID and dtype.is_integer():
        return column.cast(pl.Int64)
    if kind is Kind.ID and dtype.is_float() and bool((column.drop_nulls().drop_nans() % 1 == 0).all()):
        return column.fill_nan(None).cast(pl.Int64)
    if kind is Kind.NUMBER and (dtype.is_numeric() or dtype.is_decimal()):
        number = column.cast(pl.Float64)
        return number.set(~number.is_finite().fill_null(False), None)
    if kind in (Kind.TIME, Kind.DATE) and isinstance(dtype, pl.Datetime):
        if dtype.time_zone:
            column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        column = column.dt.cast_time_unit("us")
        return column if kind is Kind.TIME else _ends_of_days(column.dt.date())
    if kind in (Kind.TIME, Kind.DATE) and dtype == pl.Date:
        return _ends_of_days(column)
    raise InputError(f"{path}: the column {column.name!r} holds {dtype}, which is not {kind.value}.")


def _ends_of_days(column: pl.Series) -> pl.Series:
    return column.to_frame().select(end_of_day(pl.col(column.name))).to_series()


# The polars type of each kind.
TYPES = {
    Kind.TEXT: pl.String,
    Kind.ID: pl.Int64,
    Kind.NUMBER: pl.Float64,
    Kind.TIME: pl.Datetime("us"),
    Kind.DATE: pl.Datetime("us"),
}
