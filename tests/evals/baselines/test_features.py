"""Features equal a recount in plain Python, see nothing later, and are decided on train alone."""

from __future__ import annotations

import datetime
import math
import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.evals.baselines import features, histories, measurements
from ehrjax.evals.baselines.features import Features, Settings, count_features
from tests.evals.baselines import recount
from tests.evals.baselines.recount import CODES, PARENTS, START

HOUR, DAY, INSTANT = (datetime.timedelta(**{name: 1}) for name in ("hours", "days", "microseconds"))
SETTINGS = Settings(windows_days=(1.0, 3.0, math.inf), value_windows_days=(3.0, math.inf), min_subjects=1)


@st.composite
def records(draw: st.DrawFn) -> tuple[list[recount.Event], pl.DataFrame]:
    """Events of up to four subjects on a grid of half days (so that many times agree), and labels on it."""
    events: list[recount.Event] = []
    for subject in range(draw(st.integers(1, 4))):
        if draw(st.booleans()):
            events.append((subject, START - 9000 * DAY, "MEDS_BIRTH", None, None))
        for _ in range(draw(st.integers(1, 12))):
            time = draw(st.none() | st.integers(0, 10).map(lambda half: START + half * 12 * HOUR))
            value = draw(st.none() | st.floats(-100, 100, width=32) | st.just(float("nan")))
            visit = draw(st.none() | st.integers(0, 2))
            events.append((subject, time, draw(st.sampled_from(CODES)), value, visit))
    known = sorted({event[0] for event in events})
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from([*known, 99]),
                st.integers(-1, 11).map(lambda half: START + half * 12 * HOUR),
                st.sampled_from(["train", "tuning", "held_out"]),
            ),
            max_size=8,
        )
    )
    first = (known[0], START + 5 * DAY, "train")
    return events, recount.labels([first, *rows])


def check(found: Features, events: list[recount.Event], asked: pl.DataFrame, parents: dict) -> None:
    counts = found.counts.toarray()
    assert len(found) == len(asked)
    for row, (subject, time, _) in enumerate(asked.iter_rows()):
        told, values = recount.recount(events, subject, time, SETTINGS, parents)
        assert dict(zip(found.count_names, counts[row])) == {name: told.get(name, 0) for name in found.count_names}
        for name, value in zip(found.value_names, found.values[row]):
            missing = 0.0 if name.startswith("count|") else float("nan")
            assert value == pytest.approx(values.get(name, missing), rel=1e-5, abs=1e-4, nan_ok=True), name
        born = any(e[0] == subject and e[2] == "MEDS_BIRTH" for e in events)
        years = (time - (START - 9000 * DAY)) / DAY / 365.25
        assert found.ages[row] == pytest.approx(years if born else float("nan"), nan_ok=True)


@settings(max_examples=40, deadline=None)
@given(records(), st.booleans())
def test_features_equal_a_recount(made, by_single_pairs):
    events, asked = made
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if by_single_pairs:
            patch.setattr(measurements, "PAIRS", 1)
        dataset = recount.write(Path(folder), events, parents=PARENTS, shards=2)
        found = count_features(dataset, asked, SETTINGS)
    check(found, events, asked, PARENTS)
    # Every count that a train label has is there, and no other.
    train = {
        name
        for subject, time, split in asked.iter_rows()
        if split == "train"
        for name, count in recount.recount(events, subject, time, SETTINGS, PARENTS)[0].items()
        if count
    }
    assert set(found.count_names) == train


def test_pieces_of_a_dataset_give_the_same(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    events = [
        (int(s), START + int(h) * HOUR, CODES[int(c)], float(c), int(h) // 50)
        for s, h, c in zip(rng.integers(0, 40, 900), rng.integers(0, 2000, 900), rng.integers(0, 6, 900))
    ]
    asked = recount.labels([(s, START + d * DAY, "train") for s in range(40) for d in (70, 20, 45)])
    dataset = recount.write(tmp_path, events, parents=PARENTS, shards=7)
    whole = count_features(dataset, asked, SETTINGS)
    monkeypatch.setattr(histories.pieces, "__kwdefaults__", {"events": 50})
    cut = count_features(dataset, asked, SETTINGS)
    assert len(list(histories.pieces(dataset, asked))) > 3
    check(cut, events, asked, PARENTS)
    assert cut.count_names == whole.count_names and (cut.counts != whole.counts).nnz == 0
    assert cut.value_names == whole.value_names and np.array_equal(cut.values, whole.values, equal_nan=True)


def same(a: Features, b: Features, rows: slice | np.ndarray = slice(None)) -> bool:
    return (
        a.count_names == b.count_names
        and a.value_names == b.value_names
        and (a.counts[rows] != b.counts[rows]).nnz == 0
        and np.array_equal(a.values[rows], b.values[rows], equal_nan=True)
        and np.array_equal(a.ages[rows], b.ages[rows], equal_nan=True)
        and np.array_equal(a.sexes[rows], b.sexes[rows])
    )


BASE: list[recount.Event] = [
    (subject, START + subject * HOUR + day * DAY, code, 1.0 + day, day)
    for subject in range(6)
    for day, code in enumerate(CODES)
]
ASKED = recount.labels(
    [(s, START + 20 * DAY, "train" if s < 4 else "tuning" if s < 5 else "held_out") for s in range(6)]
)


@pytest.mark.parametrize("code", [*CODES, "MEDS_BIRTH", "GENDER//F"])
def test_an_instant_after_nothing_counts_and_at_the_time_all_does(tmp_path, code):
    before = count_features(recount.write(tmp_path / "a", BASE), ASKED, SETTINGS)
    late = [(s, START + 20 * DAY + INSTANT, code, 50.0, 9) for s in range(6)]
    after = count_features(recount.write(tmp_path / "b", BASE + late), ASKED, SETTINGS)
    assert same(before, after)
    now = [(s, time - INSTANT, c, value, visit) for s, time, c, value, visit in late]
    there = count_features(recount.write(tmp_path / "c", BASE + now), ASKED, SETTINGS)
    assert not same(before, there)
    if code == "MEDS_BIRTH":
        assert (there.ages == 0).all()
    elif code == "GENDER//F":
        assert (there.sexes == "female").all() and (before.sexes == "unknown").all()
    else:
        counts = there.counts.toarray()
        assert (counts[:, there.count_names.index(f"count|1d|{code}")] == 1).all()


def test_the_lower_end_of_a_window(tmp_path):
    events = [(0, START, "at", None, None), (0, START + INSTANT, "within", None, None)]
    found = count_features(recount.write(tmp_path, events), recount.labels([(0, START + DAY, "train")]), SETTINGS)
    assert {"count|1d|within", "count|3d|at", "count|all|at"} <= set(found.count_names)
    assert "count|1d|at" not in found.count_names


def test_other_subjects_and_other_splits_change_nothing(tmp_path):
    before = count_features(recount.write(tmp_path / "a", BASE), ASKED, SETTINGS)
    strange = [(77, START, "DX//other", 5.0, 1), *((5, START + DAY, "DX//new", 1e6, None) for _ in range(9))]
    kept = [event for event in BASE if event[0] != 4]
    # A held-out subject has more, a tuning subject nothing, and one without labels is there.
    after = count_features(recount.write(tmp_path / "b", kept + strange), ASKED, SETTINGS)
    assert before.count_names == after.count_names and before.value_names == after.value_names
    assert same(before, after, np.arange(4))
    assert not same(before, after)
    more = count_features(recount.write(tmp_path / "c", BASE + [(3, START, "DX//new", 1.0, None)]), ASKED, SETTINGS)
    assert set(more.count_names) > set(before.count_names), "a subject of train does decide"


def test_splits_are_the_labels_else_the_datasets(tmp_path):
    dataset = recount.write(tmp_path, BASE)
    own = dict(dataset.splits.iter_rows())
    asked = pl.concat([ASKED, recount.labels([(99, START, "train")])]).with_columns(
        split=pl.when(pl.col("subject_id") == 0).then(pl.lit("tuning"))
    )
    expected = ["tuning", *(own[s] for s in range(1, 6)), ""]
    assert features.splits_of(dataset, asked).tolist() == expected and len(set(own.values())) > 1
    assert features.splits_of(dataset, asked.drop("split")).tolist()[1:] == expected[1:]
    told = asked.with_columns(split=pl.Series(expected))
    assert same(count_features(dataset, asked, SETTINGS), count_features(dataset, told, SETTINGS))


def test_how_many_subjects_of_train_and_how_many_features(tmp_path):
    events = BASE + [(s, START, "DX//two", None, None) for s in (0, 1, 4, 5)] + [(0, START, "DX//two", None, None)]
    dataset = recount.write(tmp_path, events)
    found = {n: set(count_features(dataset, ASKED, Settings(min_subjects=n)).count_names) for n in (2, 3)}
    assert "count|all|DX//two" in found[2] and "count|all|DX//two" not in found[3] and "count|all|DX//b" in found[3]
    few = count_features(dataset, ASKED, Settings(min_subjects=1, max_counts=7, max_values=1))
    assert few.counts.shape == (6, 7) and "count|all|DX//two" not in few.count_names
    assert sum(name.startswith("last|") for name in few.value_names) == 1


def test_two_levels_count_an_event_once_an_ancestor(tmp_path):
    events = [(0, START, "DX//b", None, None), (0, START + HOUR, "DX//a.1", None, None)]
    circle = PARENTS | {"TOP": ["DX//b"]}
    asked = recount.labels([(0, START + DAY, "train")])
    # DX//b reaches UP//x directly and by UP//y, and TOP by both; from TOP the walk comes back to it.
    counts = {"DX//b": 2, "DX//a.1": 1, "DX//a": 1, "DX": 2, "UP//x": 2, "UP//y": 2, "UP": 2, "TOP": 2}
    found = count_features(recount.write(tmp_path / "c", events, parents=circle), asked, SETTINGS)
    got = dict(zip(found.count_names, found.counts.toarray()[0]))
    assert {name.split("|")[2]: n for name, n in got.items() if name.startswith("count|all|")} == counts
    plain = Settings(windows_days=(math.inf,), parents=False, prefixes=False, min_subjects=1)
    found = count_features(recount.write(tmp_path / "d", events, parents=circle), asked, plain)
    assert set(found.count_names) == {"count|all|DX//b", "count|all|DX//a.1", "events|all"}


def test_who_is_female(tmp_path):
    events = [
        (0, None, "GENDER//F", None, None),
        (1, None, "GENDER//M", None, None),
        (2, START, "plain", None, None),
        (3, None, "GENDER//M", None, None),
        (3, None, "GENDER//F", None, None),
    ]
    asked = recount.labels([(s, START, "train") for s in (3, 2, 1, 0)])
    found = count_features(recount.write(tmp_path, events), asked, SETTINGS)
    assert found.sexes.tolist() == ["unknown", "unknown", "male", "female"]
    assert dict(zip(found.count_names, found.counts.toarray()[3]))["static|GENDER//F"] == 1


def test_what_cannot_be_counted_is_said(tmp_path):
    dataset = recount.write(tmp_path, BASE)
    with pytest.raises(InputError, match="No label is of a subject in train"):
        count_features(dataset, ASKED.filter(pl.col("split") != "train"))
    with pytest.raises(InputError, match="holds no subject of the labels"):
        count_features(dataset, ASKED.with_columns(subject_id=pl.col("subject_id") + 1000))
    with pytest.raises(InputError, match="rise"):
        Settings(windows_days=(30.0, 1.0))
    with pytest.raises(InputError, match="min_subjects"):
        Settings(min_subjects=0)
    assert features.window_name(0.5) == "0.5d"
