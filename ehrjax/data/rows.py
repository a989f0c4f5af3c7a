"""Rows of packed windows become a batch: the one place where token lists turn into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ehrjax.core.batch import FIELDS, Batch
from ehrjax.core.errors import InputError
from ehrjax.data import packing, windows
from ehrjax.data.token_dataset import Subject
from ehrjax.vocab.grammar import NO_TIME

MICROSECONDS_PER_DAY = 86_400_000_000
MICROSECONDS_PER_YEAR = 365.25 * MICROSECONDS_PER_DAY

Window = tuple[Subject, int, int]


def empty(rows: int, context: int, segments: int) -> Batch:
    """A batch of padding: [rows, context] tokens and room for `segments` windows a row."""
    shapes = {"B L": (rows, context), "B S": (rows, segments)}
    fills = {"values": np.nan, "times": NO_TIME, "subject_id": -1, "anchors": -1}
    names = [name for name in FIELDS if name not in ("labels", "weights")]
    return {name: np.full(shapes[FIELDS[name].axes], fills.get(name, 0), FIELDS[name].host) for name in names}


def fill(batch: Batch, row: int, content: Sequence[Window]) -> None:
    """Lays windows (subject, start, stop) one after another into a row of a batch made by `empty`.

    Each window is the subject's static tokens followed by its tokens start .. stop. Visits count from the
    window's first, ages and times of static tokens are those of its first timed token.
    """
    at = 0
    for segment, (subject, start, stop) in enumerate(content):
        static = subject.num_static
        size, timed = static + stop - start, slice(start, stop)
        span, rest = slice(at, at + size), slice(at + static, at + size)
        head = slice(at, at + static)
        times = subject.times[timed]
        begin = int(times[0]) if len(times) else 0
        birth = subject.birth_time
        batch["tokens"][row, head] = subject.tokens[:static]
        batch["tokens"][row, rest] = subject.tokens[timed]
        batch["values"][row, head] = subject.values[:static]
        batch["values"][row, rest] = subject.values[timed]
        batch["times"][row, rest] = times
        batch["days"][row, rest] = times // MICROSECONDS_PER_DAY
        batch["days"][row, head] = begin // MICROSECONDS_PER_DAY
        batch["positions"][row, span] = np.arange(size)
        batch["segment_ids"][row, span] = segment + 1
        if len(times):
            visits = subject.visits[timed]
            batch["visit_ids"][row, rest] = visits - visits[0]
        if birth is None or not len(times):
            batch["ages"][row, span] = np.nan
        else:
            batch["ages"][row, rest] = (times - birth) / MICROSECONDS_PER_YEAR
            batch["ages"][row, head] = (begin - birth) / MICROSECONDS_PER_YEAR
        batch["subject_id"][row, segment] = subject.subject_id
        batch["window_start"][row, segment] = begin
        batch["anchors"][row, segment] = at + size - 1
        at += size


def subject(
    tokens: Sequence[int],
    *,
    subject_id: int = 0,
    num_static: int = 0,
    birth_time: int | None = None,
    times: Sequence[int] | None = None,
    visits: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
) -> Subject:
    """A subject from plain lists; whatever is left out is unknown (no birth, one visit, no values).

    Args:
      tokens: [N] ids, static ones first.
      subject_id: any integer.
      num_static: how many leading tokens have no time.
      birth_time: microseconds since 1970.
      times: [N] microseconds since 1970; default 0 for each timed token.
      visits: [N] visit numbers that never fall.
      values: [N] numbers, NaN = none.

    Raises:
      InputError: the lists differ in length.
    """
    count = len(tokens)
    lists = {"times": times, "visits": visits, "values": values}
    for name, given in lists.items():
        if given is not None and len(given) != count:
            raise InputError(f"Subject {subject_id} has {count} tokens but {len(given)} {name}; give one for each.")
    if not 0 <= num_static <= count:
        raise InputError(f"Subject {subject_id} has {count} tokens, so num_static={num_static} is impossible.")
    time_array = np.zeros(count, np.int64) if times is None else np.array(times, np.int64)
    time_array[:num_static] = NO_TIME
    return Subject(
        subject_id,
        birth_time,
        num_static,
        np.asarray(tokens, np.int32),
        time_array,
        np.zeros(count, np.int32) if visits is None else np.asarray(visits, np.int32),
        np.full(count, np.nan, np.float32) if values is None else np.asarray(values, np.float32),
    )


def collate(
    subjects: Sequence[Subject | Mapping | Sequence[int]],
    *,
    context_length: int = 512,
    max_segments: int = 16,
    batch_size: int | None = None,
) -> Batch:
    """A packed batch from subjects: `Subject` records, dicts of `subject`'s arguments, or plain token lists.

    Subjects longer than the context are cut into windows that tile them, as in evaluation.

    Args:
      subjects: what to pack.
      context_length: tokens a row.
      max_segments: windows a row at most.
      batch_size: rows; default as many as needed. Unused rows are padding.

    Returns:
      A host batch (see `ehrjax.core.batch.FIELDS`); `subject_id` says whose each window is. Subjects given
      as plain lists are numbered 0, 1, ...

    Raises:
      InputError: the subjects need more rows than `batch_size`.
    """
    records = []
    for i, item in enumerate(subjects):
        if isinstance(item, Mapping):
            item = subject(**{"subject_id": i, **item})
        elif not isinstance(item, Subject):
            item = subject(item, subject_id=i)
        records.append(item)
    lengths = np.array([len(record.tokens) for record in records], np.int64)
    static = np.array([record.num_static for record in records], np.int64)
    tiled = windows.tile(lengths, static, context=context_length, seed=None)
    plan = packing.plan(tiled.length, context_length, max_segments, None)
    rows = len(plan) if batch_size is None else batch_size
    if len(plan) > rows:
        raise InputError(f"The subjects fill {len(plan)} rows of {context_length}, more than batch_size={rows}.")
    batch = empty(rows, context_length, max_segments)
    for row in range(len(plan)):
        content = [(records[tiled.subject[w]], int(tiled.start[w]), int(tiled.stop[w])) for w in plan.row(row)]
        fill(batch, row, content)
    return batch
