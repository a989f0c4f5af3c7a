"""Clinical notes beside tokens: what each token sees, however windows share rows."""

from __future__ import annotations

import datetime
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.data import notes as stores
from ehrjax.data import packing, rows
from ehrjax.data.notes import SubjectNotes

WIDTH = 3


def noted(number: int, times: list[int], note_times: list[int], *, static: int = 1, newest: int = 0) -> rows.Subject:
    """A subject of static tokens and one token a time, with a vector a note."""
    rng = np.random.default_rng([number, *(10 + t for t in note_times)])
    vectors = rng.normal(size=(len(note_times), WIDTH)).astype(np.float32)
    own = SubjectNotes(np.array(sorted(note_times), np.int64), vectors, newest)
    stamps = [0] * static + sorted(times)
    return rows.subject([5] * len(stamps), subject_id=number, num_static=static, times=stamps, notes=own)


def expected(subject: rows.Subject, place: int) -> np.ndarray:
    """What a token sees, from the words of the contract: notes before it, the newest of them."""
    if place < subject.num_static:
        return np.zeros(WIDTH)
    own = subject.notes
    seen = [v.astype(np.float64) for t, v in zip(own.times, own.vectors) if t < subject.times[place]]
    seen = seen[-own.newest :] if own.newest else seen
    return np.mean(seen, axis=0) if seen else np.zeros(WIDTH)


def seen_by(batch: dict, row: int) -> np.ndarray:
    return batch["notes"][row][batch["notes_seen"][row]]


histories = st.lists(
    st.tuples(
        st.lists(st.integers(0, 40), min_size=1, max_size=12),
        st.lists(st.integers(-5, 45), max_size=9),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)


@given(histories, st.sampled_from([0, 17, 40]))
def test_a_token_sees_the_mean_of_the_notes_before_it(drawn, states):
    subjects = [noted(i, t, n, static=s, newest=k) for i, (t, n, s, k) in enumerate(drawn)]
    batch = rows.collate(subjects, context_length=16, max_segments=4, note_states=states)
    assert batch["notes"].shape[1:] == (states or 17, WIDTH)
    compared = 0
    for row in range(len(batch["tokens"])):
        found = seen_by(batch, row)
        for segment, subject_id in enumerate(batch["subject_id"][row]):
            if subject_id >= 0:
                places = np.flatnonzero(batch["segment_ids"][row] == segment + 1)
                for at, place in enumerate(places):
                    np.testing.assert_allclose(found[place], expected(subjects[subject_id], at), atol=1e-6)
                compared += len(places)
        assert not batch["notes_seen"][row][batch["segment_ids"][row] == 0].any()
    assert compared == sum(len(s.tokens) for s in subjects)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=14), st.lists(st.integers(0, 60), min_size=3, max_size=30))
def test_too_many_states_become_older_ones_and_never_later_ones(times, note_times):
    subject = noted(1, times, note_times)
    batch = rows.collate([subject], context_length=16, max_segments=2, note_states=3)
    found = seen_by(batch, 0)
    own = subject.notes
    sums = np.cumsum(np.concatenate([np.zeros((1, WIDTH)), own.vectors.astype(np.float64)]), axis=0)
    means = sums / np.maximum(np.arange(len(sums)), 1)[:, None]
    for place, vector in enumerate(found[: len(subject.tokens)]):
        before = own.before(subject.times[place : place + 1])[0] if place else 0
        nearest = [n for n in range(before + 1) if np.allclose(means[n], vector, atol=1e-6)]
        assert nearest, "a mean of later notes, or of none"
    # Whoever shares the row: the same.
    other = noted(2, times, note_times)
    shared = rows.collate([subject, other], context_length=40, max_segments=2, note_states=3)
    at = 0 if shared["subject_id"][0, 0] == 1 else 1
    np.testing.assert_array_equal(seen_by(shared, at)[: len(subject.tokens)], found[: len(subject.tokens)])


@given(
    st.lists(st.integers(0, 40), min_size=2, max_size=12),
    st.lists(st.integers(0, 40), max_size=14),
    st.sampled_from([0, 2, 3, 5, 8]),
    st.data(),
)
def test_a_later_note_changes_no_bit_before_it(times, note_times, states, data):
    late = data.draw(st.integers(0, 41))
    subject = noted(1, times, note_times)
    own = subject.notes
    place = int(np.searchsorted(own.times, late, side="right"))
    more = SubjectNotes(np.insert(own.times, place, late), np.insert(own.vectors, place, np.full(WIDTH, 9.0), axis=0))
    pair = subject, replace(subject, notes=more)
    one, other = (rows.collate([s], context_length=16, note_states=states) for s in pair)
    early = np.flatnonzero(one["times"][0, : len(subject.tokens)] <= late)
    np.testing.assert_array_equal(seen_by(one, 0)[early], seen_by(other, 0)[early])
    later = [p for p in range(1, len(subject.tokens)) if subject.times[p] > late and not states]
    assert all((seen_by(one, 0)[p] != seen_by(other, 0)[p]).any() for p in later)


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 12), st.data())
def test_rows_are_split_where_their_costs_are_too_high(lengths, most, data):
    costs = np.array([data.draw(st.integers(0, 15)) for _ in lengths], np.int64)
    whole = packing.plan(np.array(lengths, np.int64), 20, 8, 0)
    split = packing.split_rows(whole, costs, most)
    assert split.order.tolist() == whole.order.tolist()
    assert set(whole.offsets.tolist()) <= set(split.offsets.tolist())
    for row in range(len(split)):
        members = split.row(row)
        assert len(members) and (costs[members].sum() <= most or len(members) == 1 or costs[members[0]] > most)


def index(*rows_: tuple[int, int]) -> pl.DataFrame:
    times = [datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=t) for _, t in rows_]
    return pl.DataFrame(
        {"subject_id": [s for s, _ in rows_], "time": times, "note_id": [str(i) for i in range(len(rows_))]},
        schema={"subject_id": pl.Int64, "time": pl.Datetime("us"), "note_id": pl.String},
    )


def test_a_folder_gives_back_each_subject_s_notes_by_time(tmp_path):
    vectors = np.arange(10, dtype=np.float32).reshape(5, 2)
    stores.write(
        tmp_path, index((7, 30), (2, 5), (7, 10), (7, 20), (2, 5)), [vectors[:2], vectors[2:]], {"encoder": "x"}
    )
    found = stores.open_notes(tmp_path, newest=2)
    assert found.width == 2 and found.info["notes"] == 5 and found.info["encoder"] == "x"
    own = found.of(7)
    assert own.times.tolist() == [10_000_000, 20_000_000, 30_000_000] and own.newest == 2
    assert own.vectors.tolist() == vectors[[2, 3, 0]].tolist()
    # Notes of one time stay in their order.
    assert found.of(2).vectors.tolist() == vectors[[1, 4]].tolist()
    assert len(found.of(3).times) == 0 and len(found.of(-1).times) == 0 and len(found.of(99).times) == 0
    assert found.count(np.array([2, 3, 7, 99, -5])).tolist() == [2, 0, 3, 0, 0]


@pytest.mark.parametrize(
    "damage", ["none", "no info", "another kind", "no index", "cut vectors", "other vectors", "text"]
)
def test_damaged_folders(damage, tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    stores.write(folder, index((1, 1), (1, 2)), [np.ones((2, 2), np.float32)], {})
    if damage == "none":
        folder = tmp_path / "elsewhere"
    elif damage == "no info":
        (folder / stores.INFO).unlink()
    elif damage == "another kind":
        (folder / stores.INFO).write_text('{"kind": "ehrjax token dataset", "version": 1}')
    elif damage == "no index":
        (folder / stores.INDEX).unlink()
    elif damage == "cut vectors":
        (folder / stores.VECTORS).write_bytes((folder / stores.VECTORS).read_bytes()[:-3])
    elif damage == "other vectors":
        np.save(folder / stores.VECTORS, np.ones((3, 2), np.float32))
    else:
        (folder / stores.INDEX).write_text("no arrow")
    with pytest.raises(InputError, match="note|notes") as told:
        stores.open_notes(folder)
    assert str(told.value).count("\n") == 0
