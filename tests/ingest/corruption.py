"""Damages that can befall the tables of any source, each with what must come of it, stated beforehand.

A source is a dict of tables of text columns, all sound. What a damage does to a reader follows from what the reader
declares about the table: which columns it must have, and what they hold.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_tables import Table
from tests.ingest.meds_checks import check_accounting, check_meds, events_in, refusal

Frames = Mapping[str, pl.DataFrame]


@dataclass(frozen=True)
class Case:
    """A damage.

    Attributes:
      name: unique.
      tables: the source's tables as they should be; None: as the sound ones.
      raw: file name -> content, instead of the table's own file (a table with such a file is not written as CSV).
      outcome: `error` (with words of its message), `same` (the events of the sound tables), `aside` (table ->
        reason -> rows, all else as it was), `less` (so many events less, no row set aside), `fine` (read, and every row
        accounted for).
      detail: see outcome.
    """

    name: str
    outcome: str
    detail: object = None
    tables: Frames | None = None
    raw: Mapping[str, bytes] | None = None
    without: tuple[str, ...] = ()


def text_of(frame: pl.DataFrame) -> str:
    return frame.write_csv()


def write(case: Case, sound: Frames, places: Mapping[str, str], folder: Path) -> None:
    """Writes the source; `places` says in which folder below a table lies ("" for none)."""
    tables = {**sound, **(case.tables or {})}
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        if name not in case.without:
            path = folder / places.get(name, "") / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text_of(frame))
    for name, content in (case.raw or {}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def with_cell(frame: pl.DataFrame, column: str, value: str | None, row: int = 0) -> pl.DataFrame:
    values = frame[column].to_list()
    values[row] = value
    return frame.with_columns(pl.Series(column, values, pl.String))


def damages(
    sound: Frames, tables: Mapping[str, Table], places: Mapping[str, str] | None = None, *, most: int = 300
) -> list[Case]:
    """What can befall each of `sound`, by what its `Table` declares; of more than `most` cases a seeded choice."""
    found: list[Case] = []
    for name, frame in sound.items():
        place = (places or {}).get(name, "")
        file = f"{place}/{name}" if place else name
        found += [*_files(name, file, frame, tables[name]), *_columns(name, frame, tables[name])]
    if len(found) <= most:
        return found
    return [found[at] for at in np.sort(np.random.default_rng(0).permutation(len(found))[:most])]


def _files(name: str, file: str, frame: pl.DataFrame, table: Table) -> list[Case]:
    text = text_of(frame)
    lines = text.splitlines()
    data = text.encode()
    packed = gzip.compress(data, mtime=0)
    zstd = pa.compress(data, codec="zstd", asbytes=True)
    parquet = pa.BufferOutputStream()
    frame.write_parquet(parquet)
    parquet = parquet.getvalue().to_pybytes()

    def case(what: str, outcome: str, detail: object, content: bytes, suffix: str = ".csv") -> Case:
        return Case(f"{name}: {what}", outcome, detail, raw={f"{file}{suffix}": content}, without=(name,))

    found = [
        case("gzip", "same", None, packed, ".csv.gz"),
        case("zstd", "same", None, zstd, ".csv.zst"),
        case("parquet", "same", None, parquet, ".parquet"),
        case("byte order mark", "same", None, b"\xef\xbb\xbf" + data),
        case("CRLF", "same", None, text.replace("\n", "\r\n").encode()),
        case("no last line end", "same", None, text.rstrip("\n").encode()),
        case("all quoted", "same", None, frame.write_csv(quote_style="always").encode()),
        case("upper-case header", "same", None, "\n".join([lines[0].upper(), *lines[1:], ""]).encode()),
        case("empty", "error", f"{name}.csv", b""),
        case("utf-16", "error", f"{name}.csv", text.encode("utf-16")),
        case("text named gz", "error", f"{name}.csv.gz", data, ".csv.gz"),
        case("text named zst", "error", f"{name}.csv.zst", data, ".csv.zst"),
        case("text named parquet", "error", f"{name}.parquet", data, ".parquet"),
        case("gzip named csv", "error", f"{name}.csv", packed),
        case("row too long", "error", "line 2 has", "\n".join([lines[0], lines[1] + ",x", *lines[2:], ""]).encode()),
        case(
            "row too short",
            "error",
            "line 2 has",
            "\n".join([lines[0], lines[1].rsplit(",", 1)[0], *lines[2:], ""]).encode(),
        ),
        case("header only", *(("error", name) if table.required else ("fine", None)), (lines[0] + "\n").encode()),
        Case(f"{name}: twice", "error", "keep one of them", raw={f"{file}.csv.gz": packed}),
        Case(f"{name}: absent", *(("error", name) if table.required else ("fine", None)), without=(name,)),
    ]
    for cut in np.linspace(1, len(packed) - 1, 4).astype(int):
        found.append(case(f"gzip cut at {cut}", "error", f"{name}.csv.gz", packed[:cut], ".csv.gz"))
    for cut in np.linspace(1, len(parquet) - 1, 3).astype(int):
        found.append(case(f"parquet cut at {cut}", "error", f"{name}.parquet", parquet[:cut], ".parquet"))
    return found


# What no column of a kind can hold, and what is as good as nothing.
_IMPOSSIBLE = {
    Kind.ID: ("abc", "1.5", "9" * 30),
    Kind.NUMBER: ("abc", "1,5"),
    Kind.TIME: ("soon", "2015-13-45 00:00:00"),
    Kind.DATE: ("soon", "2015-02-30"),
}


def _columns(name: str, frame: pl.DataFrame, table: Table) -> list[Case]:
    found = []

    def case(what: str, outcome: str, detail: object, changed: pl.DataFrame) -> Case:
        return Case(f"{name}: {what}", outcome, detail, tables={name: changed})

    for column in table.columns:
        found.append(case(f"without {column}", "error", repr(column), frame.drop(column)))
    for column in table.optional:
        if column in frame.columns:
            found.append(case(f"without {column}", "fine", None, frame.drop(column)))
    for column, kind in {**table.columns, **table.optional}.items():
        if column in frame.columns:
            for value in _IMPOSSIBLE.get(kind, ()):
                words = "line 2: the value"
                found.append(case(f"{column} is {value}", "error", words, with_cell(frame, column, value)))
            if kind is Kind.NUMBER:
                for value in ("nan", "inf", "-inf"):
                    found.append(case(f"{column} is {value}", "fine", None, with_cell(frame, column, value)))
    order = np.random.default_rng(0).permutation(frame.columns).tolist()
    found.append(case("columns shuffled", "same", None, frame.select(order)))
    found.append(case("another column", "same", None, frame.with_columns(pl.lit("x").alias("zz_other"))))
    texts = [n for n, kind in {**table.columns, **table.optional}.items() if kind is Kind.TEXT and n in frame.columns]
    if texts:
        file = f"{table.folder}/{name}.csv".lstrip("/")
        latin = text_of(with_cell(frame, texts[0], "S\u00ed")).encode("latin-1")
        found.append(Case(f"{name}: latin-1", "error", "is not UTF-8", raw={file: latin}, without=(name,)))
    return found


def check(case: Case, read: Callable, sound: Path, summary: Mapping, raw: Path, output: Path) -> None:
    """Reads a damaged source and compares what comes of it with what was stated.

    Args:
      case: the damage, already written to `raw`.
      read: `read(input, output)`, the reader with its settings.
      sound: the MEDS folder of the sound source.
      summary: the summary of the sound source.
      raw: the damaged source.
      output: the folder to write.
    """
    if case.outcome == "error":
        message = refusal(read, raw, output)
        assert str(case.detail) in message, message
        return
    got = read(raw, output)
    check_accounting(got)
    if case.outcome == "same":
        assert events_in(output).equals(events_in(sound))
    elif case.outcome == "less":
        assert got["events"] == summary["events"] - case.detail
        assert {n: t["rows_set_aside"] for n, t in got["tables"].items()} == {
            n: t["rows_set_aside"] for n, t in summary["tables"].items()
        }
    elif case.outcome == "aside":
        expected = {n: dict(t["rows_set_aside"]) for n, t in summary["tables"].items()}
        for table, reasons in case.detail.items():
            for reason, count in reasons.items():
                expected[table][reason] = expected[table].get(reason, 0) + count
        assert {n: t["rows_set_aside"] for n, t in got["tables"].items()} == expected
    else:
        check_meds(output)
