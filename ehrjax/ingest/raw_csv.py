"""Reading large CSV tables (plain, gzip or zstd; commas or tabs) in bounded pieces, with errors that name the
file, line and column.

Every wanted column is read as text and parsed here, so that a bad value is never guessed at: it is reported
with its line. Only one block of the file is in memory at a time, whatever the file's size.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from ehrjax.core.errors import InputError

SUFFIXES = tuple(f"{plain}{packed}" for plain in (".csv", ".tsv", ".txt") for packed in ("", ".gz", ".zst"))
_COMPRESSION = {".gz": "gzip", ".zst": "zstd"}
BLOCK_BYTES = 8 << 20
ROW = "row"

DATE_FORMAT = "%Y-%m-%d"
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
# Rewritten extracts keep the meaning but not always the format.
OTHER_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M")


class Kind(Enum):
    """How a column's text is parsed; an empty field is null in every kind."""

    TEXT = "text"
    ID = "a whole number"
    NUMBER = "a number"
    TIME = "a time such as 2180-07-23 14:00:00"
    DATE = "a date such as 2180-07-23"


def read_batches(
    path: Path,
    columns: Mapping[str, Kind],
    *,
    block_bytes: int = BLOCK_BYTES,
    on_bytes: Callable[[int], None] | None = None,
) -> Iterator[pl.DataFrame]:
    """Yields the table in pieces of about `block_bytes` of text.

    Args:
      path: a .csv, .csv.gz or .csv.zst file with a header line; a header with tabs and no comma means tabs.
      columns: the columns to read (matched without regard to case) and how to parse each.
      block_bytes: the bytes of uncompressed text held at a time; a row must fit in one block.
      on_bytes: called with the bytes of the file (as it lies on disk) read so far.

    Yields:
      Frames with the named columns (Int64, Float64, Datetime("us"), or String trimmed of outer blanks) and
      `row`, the 0-based number of the data row in the file. A `Kind.DATE`, and a bare date where a time is
      expected, becomes the last microsecond of that day: all that is known is that it happened by then.

    Raises:
      InputError: the file is empty, damaged, not UTF-8 or ragged; a column is missing; a value cannot be
        parsed.
    """
    header, actual = check_columns(path, columns)
    first_row = 0
    for batch in _arrow_batches(path, header, list(actual.values()), block_bytes, on_bytes):
        frame = pl.DataFrame(pl.from_arrow(batch)).select(pl.col(actual[name]).alias(name) for name in columns)
        frame = frame.with_row_index(ROW, offset=first_row).cast({ROW: pl.Int64})
        first_row += len(frame)
        yield parse(frame, columns, path)


def check_columns(path: Path, columns: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The header of a table, and for each wanted column (in any case) its name there.

    Raises:
      InputError: the file is empty or damaged at its start, or a column is missing.
    """
    header = _header(path)
    by_name = {name.lower(): name for name in reversed(header)}
    missing = [name for name in columns if name.lower() not in by_name]
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(map(repr, missing))}; "
            "check that it is the table its name says, in its published layout."
        )
    return header, {name: by_name[name.lower()] for name in columns}


def line_of(path: Path, row: int) -> int:
    """The physical line (the header is line 1) on which the 0-based data row `row` of a readable file begins.

    Quoted fields may span lines, so the file is scanned; this is for messages about bad rows only. A parquet
    file has no lines: there it is the row.
    """
    if path.suffix == ".parquet":
        return row
    with _opened_text(path) as stream:
        reader = csv.reader(stream, **_dialect(path))
        next(reader)
        end, seen = reader.line_num, 0
        for record in reader:
            if record and seen == row:
                return end + 1
            seen += bool(record)
            end = reader.line_num
    return row + 2


def _opened_text(path: Path) -> io.TextIOWrapper:
    return io.TextIOWrapper(_opened(path), encoding="utf-8-sig", errors="replace", newline="")


def _damaged(path: Path) -> str:
    kind = _COMPRESSION.get(path.suffix, "CSV")
    return f"is truncated or is not a {kind} file; copy it again and compare its checksum"


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))
    return open(path, "rb")


def delimiter_of(path: Path) -> str:
    """A tab where the header line has one and no comma (as in Athena's downloads), else a comma."""
    with _opened_text(path) as stream:
        header = stream.readline()
    return "\t" if "\t" in header and "," not in header else ","


def _dialect(path: Path) -> dict[str, object]:
    """How Python's csv module reads the file; a table with tabs has no quotes."""
    delimiter = delimiter_of(path)
    return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL}


def _header(path: Path) -> list[str]:
    try:
        with _opened_text(path) as stream:
            header = next(csv.reader(stream, **_dialect(path)), None)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path} {_damaged(path)}.") from error
    except csv.Error as error:
        raise InputError(f"{path}, line 1: the header is not CSV ({error}); copy the file again.") from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.errno else _damaged(path)
        raise InputError(f"{path} {reason}.") from error
    if not header:
        raise InputError(f"{path} is empty, it has not even a header line; copy it again or remove it.")
    return [name.strip() for name in header]


def _arrow_batches(
    path: Path, header: list[str], wanted: list[str], block_bytes: int, on_bytes: Callable[[int], None] | None
) -> Iterator[pa.RecordBatch]:
    """Yields text columns block by block; every failure of the parser becomes a located InputError."""
    try:
        raw = pa.OSFile(str(path))
        compression = _COMPRESSION.get(path.suffix)
        stream = pa.CompressedInputStream(raw, compression) if compression else raw
        tabs = delimiter_of(path) == "\t"
        with raw, stream:
            reader = pa_csv.open_csv(
                stream,
                # Threads would read ahead by many blocks, and memory is to be bounded by one.
                pa_csv.ReadOptions(
                    block_size=block_bytes, use_threads=False, column_names=header, skip_rows_after_names=1
                ),
                pa_csv.ParseOptions(
                    delimiter="\t" if tabs else ",", quote_char=False if tabs else '"', newlines_in_values=not tabs
                ),
                pa_csv.ConvertOptions(
                    column_types={name: pa.string() for name in wanted},
                    include_columns=wanted,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=True,
                ),
            )
            while True:
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    break
                if on_bytes:
                    on_bytes(raw.tell())
                if batch.num_rows:
                    yield batch
    except pa.ArrowInvalid as error:
        located = _located(path, len(header), error)
        if located:
            raise located from error
    except OSError as error:
        reason = f"cannot be read: {error.strerror}" if error.errno else _damaged(path)
        raise InputError(f"{path} {reason}.") from error


def _located(path: Path, width: int, error: Exception) -> InputError | None:
    """Finds the line that the parser stumbled over, without showing what stands on it.

    A header that no line follows, not even an empty one, is no error: then there is nothing to find.
    """
    stream = _opened(path)

    def lines() -> Iterator[str]:
        for number, line in enumerate(stream, start=1):
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError:
                raise InputError(
                    f"{path}, line {number} is not UTF-8 text; convert the file to UTF-8 or copy it again."
                ) from None

    with stream:
        reader, line, records = csv.reader(lines(), **_dialect(path)), 1, 0
        try:
            for record in reader:
                if record and len(record) != width:
                    return InputError(
                        f"{path}, line {line} has {len(record)} fields where the header has {width}; "
                        "correct or remove that line, or copy the file again."
                    )
                line = reader.line_num + 1
                records += 1
        except InputError as located:
            return located
        except csv.Error:
            return InputError(f"{path}, line {line} is not CSV (an open quote?); correct it or copy the file again.")
    if records == 1:
        return None
    row = re.search(r"Row #(\d+)", str(error))
    where = f" near row {row[1]}" if row else ""
    return InputError(f"{path} cannot be read as CSV{where}; copy the file again.")


def end_of_day(day: pl.Expr) -> pl.Expr:
    """The last microsecond of a date: what is known only by its day counts from then."""
    return day.cast(pl.Datetime("us")) + pl.duration(days=1) - pl.duration(microseconds=1)


def parse(frame: pl.DataFrame, columns: Mapping[str, Kind], path: Path) -> pl.DataFrame:
    """Parses text columns; a value that cannot be parsed is an InputError that names its line and column."""
    text = frame.select(
        ROW,
        *(
            # A field of blanks only is as empty as an empty one.
            pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name).str.strip_chars()).alias(name)
            for name in columns
        ),
    )
    out = text.with_columns(_cast(name, kind) for name, kind in columns.items() if kind is not Kind.TEXT)
    for name, kind in columns.items():
        if kind is Kind.TEXT or out[name].null_count() == text[name].null_count():
            continue
        if kind is Kind.TIME:
            out = out.with_columns(_other_time(text[name], out[name]))
        elif kind is Kind.ID:
            # A column of whole numbers with gaps leaves pandas as 12.0.
            whole = text[name].str.strip_suffix(".0").cast(pl.Int64, strict=False)
            out = out.with_columns(whole.alias(name))
        bad = text.filter(out[name].is_null() & text[name].is_not_null())
        if len(bad):
            row, value = bad[ROW][0], bad[name][0]
            # A broken date is shown because it helps; anything else may be a patient's data.
            shown = f" {value!r}" if re.fullmatch(r"[-0-9 :/.TZ]{1,32}", value) and kind in _DATES else ""
            raise InputError(
                f"{path}, line {line_of(path, row)}: the value{shown} in column {name!r} "
                f"is not {kind.value}; correct or remove that row."
            )
    numbers = [name for name, kind in columns.items() if kind is Kind.NUMBER]
    return out.with_columns(pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in numbers)


_DATES = (Kind.TIME, Kind.DATE)


def _cast(name: str, kind: Kind) -> pl.Expr:
    column = pl.col(name)
    if kind is Kind.ID:
        return column.cast(pl.Int64, strict=False)
    if kind is Kind.NUMBER:
        return column.cast(pl.Float64, strict=False)
    if kind is Kind.TIME:
        return column.str.to_datetime(TIME_FORMAT, time_unit="us", strict=False)
    day = column.str.to_date(DATE_FORMAT, strict=False)
    # Some tables write their dates as midnights.
    at_midnight = column.str.to_datetime(TIME_FORMAT, time_unit="us", strict=False).dt.date()
    return end_of_day(pl.coalesce(day, at_midnight))


def _other_time(text: pl.Series, parsed: pl.Series) -> pl.Series:
    column = pl.col("text")
    attempts = [column.str.to_datetime(f, time_unit="us", strict=False) for f in OTHER_TIME_FORMATS]
    attempts.append(end_of_day(column.str.to_date(DATE_FORMAT, strict=False)))
    frame = pl.DataFrame({"text": text, "parsed": parsed})
    return frame.select(pl.coalesce("parsed", *attempts).alias(text.name)).to_series()
