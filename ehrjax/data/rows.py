"""Rows of packed windows become a batch: the one place where token lists turn into arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ehrjax.core.batch import FIELDS, MICROSECONDS_PER_MINUTE, NOTES, SUPERVISION, Batch
from ehrjax.core.errors import InputError
from ehrjax.data import packing, windows
from ehrjax.data.notes import SubjectNotes
from ehrjax.data.token_dataset import Subject
from ehrjax.vocab.grammar import NO_TIME

MICROSECONDS_PER_DAY = 86_400_000_000
MICROSECONDS_PER_YEAR = 365.25 * MICROSECONDS_PER_DAY

Window = tuple[Subject, int, int]


def empty(rows: int, context: int, segments: int, notes: tuple[int, int] | None = None) -> Batch:
    """A batch of padding: [rows, context] tokens and room for `segments` windows a row.

    notes: (states a row, width) of the fields of notes; None leaves them out.
    """
    shapes = {"B L": (rows, context), "B S": (rows, segments), "B N D": (rows, *(notes or ()))}
    fills = {"values": np.nan, "times": NO_TIME, "subject_id": -1, "anchors": -1}
    names = [name for name in FIELDS if name not in SUPERVISION and (notes or name not in NOTES)]
    return {name: np.full(shapes[FIELDS[name].axes], fills.get(name, 0), FIELDS[name].host) for name in names}


def fill(batch: Batch, row: int, content: Sequence[Window]) -> None:
    """Lays windows (subject, start, stop) one after another into a row of a batch made by `empty`.

    Each window is the subject's static tokens followed by its tokens start .. stop. Visits count from the
    window's first, ages and times of static tokens are those of its first timed token. Where the batch has notes, a
    token sees the mean of those that could be read before its time, static tokens none.
    """
    at, used = 0, 1
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
        batch["ends"][row, segment] = stop == len(subject.tokens)
        if "notes" in batch and subject.notes is not None:
            used = _fill_notes(batch, row, rest, subject.notes, times, used)
        at += size


def minutes_after(last: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Minutes from the times of last tokens to prediction times (both in microseconds), int32, as `label_gaps` are."""
    minutes = (np.asarray(times, np.int64) - last) // MICROSECONDS_PER_MINUTE
    return np.clip(minutes, 0, np.iinfo(np.int32).max).astype(np.int32)


def _fill_notes(batch: Batch, row: int, span: slice, own: SubjectNotes, times: np.ndarray, used: int) -> int:
    """Lays the states of a window's notes behind the `used` ones of a row; returns how many are used then.

    Which states are kept depends on their number in the window and the sizes of the batch alone, so that what comes
    later changes nothing before it, whoever shares the row: half of the room goes to the first ones, and of the others
    every n-th is kept. A token whose own state is not kept sees the mean as it stood a little earlier.
    """
    counts = own.before(times)
    states = np.unique(counts[counts > 0])
    room, length = batch["notes"].shape[1] - 1, batch["tokens"].shape[1]
    first = room if length <= room else room // 2
    each = -(-(length - first) // max(room - first, 1))
    number = np.arange(len(states))
    states = states[(number < first) | ((number - first) % max(each, 1) == 0)]
    stop = used + len(states)
    batch["notes"][row, used:stop] = own.means(states)
    place = np.searchsorted(states, counts, side="right")
    batch["notes_seen"][row, span] = np.where(place > 0, used - 1 + place, 0)
    return stop


def subject(
    tokens: Sequence[int],
    *,
    subject_id: int = 0,
    num_static: int = 0,
    birth_time: int | None = None,
    times: Sequence[int] | None = None,
    visits: Sequence[int] | None = None,
    values: Sequence[float] | None = None,
    notes: SubjectNotes | None = None,
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
      notes: vectors of clinical notes.

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
        notes,
    )


def collate(
    subjects: Sequence[Subject | Mapping | Sequence[int]],
    *,
    context_length: int = 512,
    max_segments: int = 16,
    batch_size: int | None = None,
    note_states: int = 0,
) -> Batch:
    """A packed batch from subjects: `Subject` records, dicts of `subject`'s arguments, or plain token lists.

    Subjects longer than the context are cut into windows that tile them, as in evaluation.

    Args:
      subjects: what to pack.
      context_length: tokens a row.
      max_segments: windows a row at most.
      batch_size: rows; default as many as needed. Unused rows are padding.
      note_states: see `room_for_notes`, where subjects have notes.

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
    every = [(records[w], int(a), int(b)) for w, a, b in zip(tiled.subject, tiled.start, tiled.stop)]
    plan = plan_rows(every, context_length, max_segments, note_states)
    rows = len(plan) if batch_size is None else batch_size
    if len(plan) > rows:
        raise InputError(f"The subjects fill {len(plan)} rows of {context_length}, more than batch_size={rows}.")
    batch = empty(rows, context_length, max_segments, noted(every, context_length, note_states))
    for row in range(len(plan)):
        fill(batch, row, [every[w] for w in plan.row(row)])
    return batch


def plan_rows(content: Sequence[Window], context: int, segments: int, note_states: int) -> packing.Plan:
    """Which of some windows share a row, in their order."""
    lengths = [subject.num_static + stop - start for subject, start, stop in content]
    plan = packing.plan(np.array(lengths, np.int64), context, segments, None)
    # Tokens of one time see one state, so neither the notes nor the tokens are fewer than the states.
    states = [0 if s.notes is None else min(len(s.notes.times), stop - start) for s, start, stop in content]
    return packing.split_rows(plan, np.array(states, np.int64), room_for_notes(note_states, context) - 1)


def room_for_notes(note_states: int, context: int) -> int:
    """States of notes a row, the zeros of no note among them; 0: as many as there can be, one a token.

    Raises:
      InputError: one, which is no room.
    """
    if note_states == 1:
        raise InputError("config.data.note_states is 1, which has room for no note; it must be 0 or at least 2.")
    return note_states or context + 1


def noted(content: Sequence[Window], context: int, note_states: int) -> tuple[int, int] | None:
    """What `empty` must know of the notes of some windows; None where no subject has notes."""
    widths = {subject.notes.vectors.shape[1] for subject, _, _ in content if subject.notes is not None}
    return (room_for_notes(note_states, context), widths.pop()) if widths else None
