"""From rows of raw tables to events: what a table says, when it became known, and what became of every row.

A reader declares each table once (`Table`, `Event`); here a piece of a table becomes a frame of events,
every row is accounted for (`Tally`), and events are spilled to buckets of whole subjects (`Buckets`), so
that memory is bounded by one piece of one table or by one bucket, never by a table.
"""

from __future__ import annotations

import datetime
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from ehrjax.core.codes import SEPARATOR
from ehrjax.ingest.meds import EVENT_SCHEMA, VISIT_COLUMN
from ehrjax.ingest.raw_csv import ROW, Kind

UNKNOWN = "UNK"
# Since when the visit of a row is known; before that time its events carry no visit.
VISIT_FROM = "visit_from"
NO_EVENT = "nothing to record"
# De-identified dates reach from the 18th century to the 23rd; beyond that a time is a placeholder (9999-12-31).
FIRST_TIME, LAST_TIME = datetime.datetime(1700, 1, 1), datetime.datetime(2300, 1, 1)
OUT_OF_RANGE = "time before 1700 or after 2299"

TABLE, RANK, STEP, ONCE = "table", "rank", "step", "once"
SPILLED = {**EVENT_SCHEMA, TABLE: pl.UInt8, RANK: pl.UInt8, ROW: pl.Int64, STEP: pl.UInt16, ONCE: pl.String}


def words(column: str | pl.Expr) -> pl.Expr:
    """A text column as part of a code: runs of blanks become one, the codes' separator cannot occur
    inside."""
    expr = pl.col(column) if isinstance(column, str) else column
    return expr.str.replace_all(r"\s+", " ").str.replace_all("/{2,}", "/")


def or_unknown(column: str | pl.Expr) -> pl.Expr:
    """`words`, with UNK where there is nothing."""
    return words(column).fill_null(UNKNOWN)


def code(*parts: str | pl.Expr) -> pl.Expr:
    """Joins a family name and expressions with `//`; null where any part is null, which means no event."""
    return pl.concat_str([pl.lit(p) if isinstance(p, str) else p for p in parts], separator=SEPARATOR)


def not_before(time: str, known: str | pl.Expr) -> pl.Expr:
    """`time`, but no earlier than when its row was `known`: a row cannot tell of anything before it
    exists."""
    known = pl.col(known) if isinstance(known, str) else known
    return pl.when(pl.col(time).is_not_null()).then(pl.max_horizontal(pl.col(time), known))


def columns_of(
    *, ids: str = "", times: str = "", dates: str = "", numbers: str = "", texts: str = ""
) -> dict[str, Kind]:
    """Columns with their kinds, from names parted by blanks."""
    named = {Kind.ID: ids, Kind.TIME: times, Kind.DATE: dates, Kind.NUMBER: numbers, Kind.TEXT: texts}
    return {name: kind for kind, names in named.items() for name in names.split()}


@dataclass(frozen=True)
class Event:
    """One kind of event that a row can give.

    Attributes:
      code: the code; null where the row gives no such event.
      time: when it became known; null gives no event. None means static (no time at all).
      numeric: the numeric value, if any.
      text: the text value, if any.
      once: a key within the subject; of the events that share it only the first is kept.
      rank: the place among events at one time; the table's own rank if None.
    """

    code: pl.Expr
    time: pl.Expr | None
    numeric: pl.Expr | None = None
    text: pl.Expr | None = None
    once: pl.Expr | None = None
    rank: int | None = None


@dataclass(frozen=True)
class Table:
    """What a raw table means.

    Attributes:
      name: the file's name without its suffix.
      folder: the folder below the input folder.
      columns: the columns that are read, and how they are parsed.
      events: what a row can give.
      set_aside: (reason, condition) pairs; a row with a true condition is set aside for the first such
        reason.
      rank: the place of its events among those at one time.
      why: why its times are what they are.
      repeats: the reason given for a row all of whose events were already given by an earlier row
        (`Event.once`).
      required: the reader refuses an input without this table or with an empty one.
      optional: columns that become null where the table lacks them.
    """

    name: str
    folder: str
    columns: Mapping[str, Kind]
    events: tuple[Event, ...]
    rank: int
    why: str
    set_aside: tuple[tuple[str, pl.Expr], ...] = ()
    repeats: str = "repeats an earlier row"
    required: bool = False
    optional: Mapping[str, Kind] = field(default_factory=dict)


@dataclass
class Tally:
    """The fate of a table's rows: rows == emitted + sum(set_aside.values())."""

    rows: int = 0
    emitted: int = 0
    events: int = 0
    set_aside: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, object]:
        """Plain numbers for a summary."""
        aside = {reason: count for reason, count in sorted(self.set_aside.items()) if count}
        return {
            "rows": self.rows,
            "rows_emitted": self.emitted,
            "events": self.events,
            "rows_set_aside": aside,
        }


def events_of(frame: pl.DataFrame, table: Table, index: int, tally: Tally) -> pl.DataFrame:
    """The events of one piece of a table.

    Args:
      frame: the parsed rows with `subject_id`, `row`, and also `visit_id` and `visit_from`.
      table: what the rows mean.
      index: the table's number, kept in the events for the accounting.
      tally: counts the rows and events of this piece.

    Returns:
      A frame with the columns of SPILLED, in no particular order.
    """
    reason = pl.lit(None, pl.String)
    for name, condition in reversed(table.set_aside):
        reason = pl.when(condition).then(pl.lit(name)).otherwise(reason)
    reasons = frame.select(reason.alias("reason"))["reason"]
    kept = frame.filter(reasons.is_null())
    parts, impossible = [], []
    for step, event in enumerate(table.events):
        static = event.time is None
        part = kept.select(
            pl.col("subject_id"),
            (pl.lit(None) if static else event.time).cast(pl.Datetime("us")).alias("time"),
            event.code.alias("code"),
            _or_null(event.numeric).cast(pl.Float32).alias("numeric_value"),
            _or_null(event.text).cast(pl.String).alias("text_value"),
            pl.col(VISIT_COLUMN),
            pl.col(VISIT_FROM),
            pl.lit(index, pl.UInt8).alias(TABLE),
            pl.lit(table.rank if event.rank is None else event.rank, pl.UInt8).alias(RANK),
            pl.col(ROW),
            pl.lit(step, pl.UInt16).alias(STEP),
            _or_null(event.once).cast(pl.String).alias(ONCE),
        )
        part = part.filter(pl.col("code").is_not_null() & (pl.lit(static) | pl.col("time").is_not_null()))
        if not static:
            plausible = part["time"].is_between(FIRST_TIME, LAST_TIME, closed="left")
            if not plausible.all():
                impossible.append(part.filter(~plausible)[ROW])
                part = part.filter(plausible)
        visit = pl.when(pl.col(VISIT_FROM) <= pl.col("time")).then(pl.col(VISIT_COLUMN))
        parts.append(part.with_columns(visit.alias(VISIT_COLUMN)).select(list(SPILLED)))
    events = pl.concat(parts)
    emitted = len(events) if len(parts) == 1 else events[ROW].n_unique()
    tally.rows += len(frame)
    tally.emitted += emitted
    tally.events += len(events)
    tally.set_aside.update(reasons.drop_nulls().to_list())
    silent = len(kept) - emitted
    if impossible:
        without = pl.concat(impossible).unique()
        lost = int((~without.is_in(events[ROW].implode())).sum())
        tally.set_aside[OUT_OF_RANGE] += lost
        silent -= lost
    tally.set_aside[NO_EVENT] += silent
    return events


def _or_null(expr: pl.Expr | None) -> pl.Expr:
    return pl.lit(None) if expr is None else expr


def in_order(events: pl.DataFrame, tables: Mapping[int, Table], tallies: Mapping[str, Tally]) -> pl.DataFrame:
    """Whole subjects in their final order, without the repeats that `Event.once` excludes.

    The order is (subject, time with static first, rank, table, row, step): it depends on nothing that comes
    later, so it stays when later rows are deleted.
    """
    events = events.sort("subject_id", "time", RANK, TABLE, ROW, STEP, nulls_last=False)
    keyed = events.with_row_index("at").filter(pl.col(ONCE).is_not_null())
    repeated = keyed.filter(~pl.struct("subject_id", ONCE).is_first_distinct())
    if len(repeated):
        keep = np.ones(len(events), bool)
        keep[repeated["at"].to_numpy()] = False
        events = events.filter(pl.Series(keep))
        for index in repeated[TABLE].unique():
            tally = tallies[tables[index].name]
            lost = repeated.filter(pl.col(TABLE) == index)
            emptied = lost.select(ROW).unique().join(events.filter(pl.col(TABLE) == index), on=ROW, how="anti")
            tally.events -= len(lost)
            tally.emitted -= len(emptied)
            tally.set_aside[tables[index].repeats] += len(emptied)
    return events.select(list(EVENT_SCHEMA))


class KeyIndex:
    """Finds whole-number keys in a table held in memory, without building a hash table for every piece."""

    def __init__(self, keys: pl.Series) -> None:
        values = keys.to_numpy()
        self._order = np.argsort(values, kind="stable")
        self._sorted = values[self._order]

    def positions(self, keys: pl.Series) -> np.ndarray:
        """[N] positions of the keys in the table, -1 where a key is null or not there."""
        values = keys.fill_null(-1).to_numpy()
        if not len(self._sorted):
            return np.full(len(values), -1)
        at = np.minimum(np.searchsorted(self._sorted, values), len(self._sorted) - 1)
        found = (self._sorted[at] == values) & keys.is_not_null().to_numpy()
        return np.where(found, self._order[at], -1)


class Buckets:
    """Temporary files, each with all events of its share of the subjects, chosen by a stable hash."""

    MOST = 1000
    # So that a bucket is written in pieces worth writing, however many buckets there are.
    HELD_EVENTS = 200_000

    def __init__(self, folder: Path, count: int) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._paths = [folder / f"{number:04d}.arrows" for number in range(count)]
        self._held: list[pl.DataFrame] = []

    @classmethod
    def count_for(cls, text_bytes: int, bucket_bytes: int) -> int:
        """How many buckets hold about `bucket_bytes` of raw text each."""
        return min(cls.MOST, max(1, math.ceil(text_bytes / bucket_bytes)))

    def add(self, events: pl.DataFrame) -> None:
        """Appends each event to its subject's bucket."""
        self._held.append(events)
        if sum(map(len, self._held)) >= self.HELD_EVENTS:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        events, self._held = pl.concat(self._held), []
        mixed = events["subject_id"].to_numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        number = ((mixed >> np.uint64(32)) % np.uint64(len(self._paths))).astype(np.int64)
        order = np.argsort(number, kind="stable")
        events, number = events[order], number[order]
        starts = np.flatnonzero(np.r_[True, number[1:] != number[:-1]]) if len(number) else []
        for start, end in zip(starts, [*starts[1:], len(events)]):
            table = events[int(start) : int(end)].to_arrow(compat_level=pl.CompatLevel.oldest())
            # A stream of its own each time: no file stays open, as many systems allow a process only 256.
            with open(self._paths[number[start]], "ab") as file:
                options = pa.ipc.IpcWriteOptions(compression="lz4")
                with pa.ipc.new_stream(file, table.schema, options=options) as stream:
                    stream.write_table(table)

    def drain(self) -> Iterator[pl.DataFrame]:
        """Yields the buckets one after another and removes their files."""
        self._flush()
        for path in self._paths:
            if path.exists():
                pieces, size = [], path.stat().st_size
                with pa.OSFile(str(path)) as file:
                    while file.tell() < size:
                        with pa.ipc.open_stream(file) as stream:
                            pieces.append(stream.read_all())
                events = pl.DataFrame(pl.from_arrow(pa.concat_tables(pieces)))
                del pieces
                path.unlink()
                yield events

    def remove(self) -> None:
        """Removes the folder, which is empty once everything is drained."""
        self._folder.rmdir()
