"""Token files of another pipeline: the same tokens and times in ours, labels and notes beside."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ehrjax.core import files
from ehrjax.core.errors import InputError
from ehrjax.data import token_files as reader
from ehrjax.data.token_dataset import open_tokens
from ehrjax.ingest import meds
from ehrjax.vocab.grammar import NO_TIME
from ehrjax.vocab.recipe import CLS, SPECIALS, UNK
from tests.conftest import run_verb
from tests.data import token_files_layout as layout
from tests.ingest.meds_checks import digests, labels_in

SPLITS = {"train": "train", "val": "tuning", "held_out": "held_out"}


def convert(made: dict, folder: Path, **settings: object) -> dict:
    return reader.read(layout.write(made, folder / "in"), folder / "out", reader.Settings(**settings))


def expected(record: dict, *, static: bool = True) -> tuple[list[str], list[int]]:
    """The strings and times that a record must become, told without the reader."""
    names, times = [CLS], [NO_TIME]
    last = max(time for time in record["timestamps"] if time)
    pairs = [(layout.STRINGS[t], s) for t, s in zip(record["tokens"], record["timestamps"])]
    fixed = [name for name, time in pairs if time == 0 and name not in ("<start>", "<end>")]
    if static:
        names, times = names + fixed, times + [NO_TIME] * len(fixed)
    moving = [(name, time or last) for name, time in pairs if time != 0 or name == "<end>"]
    for name, time in sorted(moving, key=lambda pair: pair[1]):
        names.append(UNK if name == "<unknown>" else name)
        times.append(int(round(time * 1e6)))
    return names, times


def check(folder: Path, made: dict, **options: bool) -> None:
    dataset = open_tokens(folder)
    strings = dataset.vocabulary.strings
    for name, records in made.items():
        if name.startswith("notes"):
            continue
        split = dataset.split(SPLITS[name.split("/")[0]])
        at = {subject: i for i, subject in enumerate(split.subject_ids.tolist())}
        for record in records:
            subject = split.subject(at[record["subject_id"]])
            names, times = expected(record, **options)
            assert [strings[token] for token in subject.tokens] == names
            assert subject.times.tolist() == times
            assert subject.num_static == times.count(NO_TIME)
            assert subject.birth_time is None and np.isnan(subject.values).all()
            steps = np.diff(subject.times[subject.num_static :]) > 86_400_000_000
            assert subject.visits[subject.num_static :].tolist() == np.cumsum([0, *steps]).tolist()


@pytest.mark.parametrize("static", [True, False])
@pytest.mark.parametrize("seed", [1, 2])
def test_tokens_times_and_splits_are_those_of_the_files(seed, static, tmp_path):
    made = layout.generate(seed)
    summary = convert(made, tmp_path, static_tokens=static)
    check(tmp_path / "out", made, static=static)
    subjects = sum(len(records) for name, records in made.items() if not name.startswith("notes"))
    total = sum(len(r["tokens"]) for name, records in made.items() if name[:5] != "notes" for r in records)
    assert summary["subjects"] == {"rows": subjects, "kept": subjects, "set_aside": {}}
    aside = {reader.STARTING: subjects} | ({} if static else {reader.STATIC: 2 * subjects})
    assert summary["tokens"]["set_aside"] == aside
    assert summary["tokens"]["rows"] == total == summary["tokens"]["kept"] + sum(aside.values())
    # [CLS] is ours; it comes on top.
    assert sum(split["tokens"] for split in summary["splits"].values()) == summary["tokens"]["kept"] + subjects


def test_the_vocabulary_is_the_sources_behind_our_specials(tmp_path):
    made = layout.generate(1)
    convert(made, tmp_path)
    table = open_tokens(tmp_path / "out").vocabulary.table
    assert table["str"].to_list() == [*SPECIALS, "<end>", *layout.STRINGS[3:]]
    train = [t for name, records in made.items() if name.startswith("train") for r in records for t in r["tokens"]]
    own = table.filter(pl.col("token") >= len(SPECIALS))
    assert own["count"].to_list() == [train.count(layout.STRINGS.index(name)) for name in own["str"]]
    assert table.filter(pl.col("str") == "LAB//GLUCOSE")["family"].item() == "LAB"


def test_tokens_out_of_order_are_sorted_and_static_ones_come_first(tmp_path):
    record = {
        "subject_id": 5,
        "tokens": [layout.START, 7, 6, layout.GENDER, 0, 7, layout.END],
        "timestamps": [0.0, 200.5, 100.25, 0, 100.25, -5.0, 0],
    }
    summary = convert({"train/a.pkl": [record, {"subject_id": 6, "tokens": [6], "timestamps": [1.0]}]}, tmp_path)
    subject = open_tokens(tmp_path / "out").split("train").subject(0)
    strings = open_tokens(tmp_path / "out").vocabulary.decode(subject.tokens)
    assert strings == [CLS, "GENDER//M", "LAB//GLUCOSE", "MEDICAL//C10", UNK, "LAB//GLUCOSE", "<end>"]
    assert subject.times[2:].tolist() == [-5_000_000, 100_250_000, 100_250_000, 200_500_000, 200_500_000]
    assert summary["subjects_reordered"] == 1


def test_without_split_folders_subjects_are_split_by_their_hash(tmp_path):
    made = {"a.pkl": [layout.record(np.random.default_rng(1), subject) for subject in range(60)]}
    convert(made, tmp_path)
    dataset = open_tokens(tmp_path / "out")
    split = meds.split_of(np.arange(60))
    for name in meds.SPLITS:
        assert sorted(dataset.split(name).subject_ids.tolist()) == np.flatnonzero(split == name).tolist()


@pytest.mark.parametrize(
    ("labels", "column"),
    [
        ([0, 1, True, None], "boolean_value"),
        ([0, 3, 2, 1], "integer_value"),
        ([0.5, 1, 2, float("nan")], "float_value"),
    ],
)
def test_labels_are_asked_for_at_the_last_token(labels, column, tmp_path):
    made = {"train/a.pkl": [layout.record(np.random.default_rng(n), n) for n in range(4)]}
    for record, label in zip(made["train/a.pkl"], labels):
        record["label"] = label
    summary = convert(made, tmp_path, task="cancer")
    table = labels_in(tmp_path / "out", "cancer")
    assert table[column].to_list() == [label for label in labels if label is not None and label == label]
    given = [r for r, label in zip(made["train/a.pkl"], labels) if label is not None and label == label]
    assert table["prediction_time"].to_list() == [
        datetime(1970, 1, 1) + timedelta(seconds=max(t for t in r["timestamps"] if t)) for r in given
    ]
    assert summary["labels"]["cancer"]["rows_set_aside"] == ({"no label": 1} if len(given) < 4 else {})


def test_no_labels_give_no_label_file(tmp_path):
    made = {"train/a.pkl": [{"subject_id": 1, "tokens": [6], "timestamps": [5.0]}]}
    assert convert(made, tmp_path)["labels"] == {}
    assert not (tmp_path / "out" / "labels").exists()


def test_notes_become_a_table_of_known_times(tmp_path):
    made = layout.generate(3)
    made["notes/more.pkl"] = [
        {
            "subject_id": 0,
            "notes": [
                {"note_id": 7, "charttime": "2001-02-03", "text": "a note"},
                {"note_id": None, "charttime": 1e9, "text": "seconds", "token_ids": np.array([1, 2])},
                {"note_id": "t", "charttime": datetime(2002, 1, 1, 5), "token_ids": []},
            ],
        },
        {"subject_id": -77, "notes": [{"note_id": 1, "charttime": "2001-02-03 01:02:03", "text": "nobody"}]},
    ]
    summary = convert(made, tmp_path)
    table = pl.read_parquet(tmp_path / "out" / "notes" / "notes.parquet")
    expected_rows = []
    for name in sorted(n for n in made if n.startswith("notes/")):
        for record in made[name]:
            mine = []
            for note in record["notes"]:
                if isinstance(note["charttime"], str) and len(note["charttime"]) == 19 and record["subject_id"] >= 0:
                    time = datetime.fromisoformat(note["charttime"])
                    mine.append((record["subject_id"], time, note["note_id"], None, note["token_ids"]))
            expected_rows += sorted(mine, key=lambda row: row[1])
    more = [
        (0, datetime(2001, 2, 3, 23, 59, 59, 999_999), "7", "a note", None),
        (0, datetime(2001, 9, 9, 1, 46, 40), None, "seconds", [1, 2]),
        (0, datetime(2002, 1, 1, 5), "t", None, []),
    ]
    assert sorted(table.rows(), key=repr) == sorted(expected_rows + more, key=repr)
    assert summary["notes"]["set_aside"] == {"subject has no tokens": 1}
    assert summary["notes"]["rows"] == len(table) + 1


def test_a_subjects_future_does_not_change_its_past(tmp_path):
    made = layout.generate(4)
    convert(made, tmp_path / "all")
    for records in made.values():
        for record in records:
            if "tokens" in record:
                cut = 3 + (len(record["tokens"]) - 3) // 2
                record["tokens"], record["timestamps"] = record["tokens"][:cut], record["timestamps"][:cut]
    made = {name: [r for r in records if len(r.get("tokens", [0] * 9)) > 3] for name, records in made.items()}
    convert(made, tmp_path / "cut")
    for name in meds.SPLITS:
        full, part = (open_tokens(tmp_path / x / "out").split(name) for x in ("all", "cut"))
        at = {subject: i for i, subject in enumerate(full.subject_ids.tolist())}
        for i, subject in enumerate(part.subject_ids.tolist()):
            short, long = part.subject(i), full.subject(at[subject])
            for column in ("tokens", "times", "visits"):
                assert np.array_equal(getattr(short, column), getattr(long, column)[: len(short.tokens)])


def test_the_same_input_gives_the_same_bytes_however_it_is_cut(tmp_path):
    made = layout.generate(5)
    convert(made, tmp_path / "one")
    convert(made, tmp_path / "two")
    assert digests(tmp_path / "one" / "out") == digests(tmp_path / "two" / "out")
    split = {}
    for name, records in made.items():
        for number, record in enumerate(records):
            split[name.replace(".pkl", f"-{number}.pkl")] = [record]
    convert(split, tmp_path / "three")
    for name in meds.SPLITS:
        a, b = (tmp_path / x / "out" / "data" / name / "00000.arrow" for x in ("one", "three"))
        assert files.sha256_file(a) == files.sha256_file(b)


def test_notes_that_are_asked_for_must_be_there(tmp_path):
    made = {name: records for name, records in layout.generate(1).items() if not name.startswith("notes/")}
    assert convert(made, tmp_path / "none")["notes"] == {}
    with pytest.raises(InputError, match="holds no .pkl files of notes"):
        convert(made, tmp_path / "asked", notes="clinical")


SECONDS = st.one_of(
    st.just(0.0), st.just(0), st.integers(-(10**9), 10**9), st.floats(-5e9, 5e9), st.floats(allow_nan=True)
)
RECORDS = st.lists(st.lists(st.tuples(st.integers(0, len(layout.STRINGS) - 1), SECONDS), max_size=12), max_size=6)


@given(given_records=RECORDS, static=st.booleans())
@settings(max_examples=60, deadline=None)
def test_nothing_is_lost_or_doubled_and_times_never_fall(given_records, static, tmp_path_factory):
    folder = tmp_path_factory.mktemp("x")
    records = [
        {"subject_id": n, "tokens": [t for t, _ in pairs], "timestamps": [s for _, s in pairs]}
        for n, pairs in enumerate(given_records)
    ]
    summary = convert({"train/a.pkl": records}, folder, static_tokens=static)
    for account, rows in (("subjects", len(records)), ("tokens", sum(map(len, given_records)))):
        here = summary[account]
        assert here["rows"] == rows == here["kept"] + sum(here["set_aside"].values())
    split = open_tokens(folder / "out").split("train")
    assert len(split) == summary["subjects"]["kept"]
    assert int(split.lengths.sum()) == summary["tokens"]["kept"] + len(split), "[CLS] comes on top"
    for index in range(len(split)):
        subject = split.subject(index)
        assert subject.tokens[0] == SPECIALS.index(CLS) and CLS not in open_tokens(folder / "out").vocabulary.decode(
            subject.tokens[1:]
        )
        assert (subject.times[: subject.num_static] == NO_TIME).all() and len(subject.times) > subject.num_static
        assert (np.diff(subject.times[subject.num_static :]) >= 0).all()
        assert (np.diff(subject.visits[subject.num_static :]) >= 0).all()


def test_a_subject_in_two_files_is_refused(tmp_path):
    made = layout.generate(1)
    made["val/again.pkl"] = [made["train/0.pkl"][0]]
    with pytest.raises(InputError, match="1 subjects stand in more than one token file"):
        convert(made, tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_verb_writes_a_token_dataset(tmp_path):
    made = layout.generate(6)
    layout.write(made, tmp_path / "in")
    arguments = ("events", "--source=tokens", f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}")
    result = run_verb("prepare", *arguments, "--static-tokens=false")
    assert result.returncode == 0, result.stderr
    check(tmp_path / "out", made, static=False)
