"""The reader of Delphi's triples: ages as pseudo-dates, every row accounted for."""

from __future__ import annotations

import json
import struct
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import conversion
from ehrjax.ingest import delphi as reader
from ehrjax.ingest.meds import open_dataset, split_of
from tests.ingest import delphi_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, refusal, until

BORN = datetime(1970, 1, 1)


def convert(folder: Path, train: np.ndarray, val: np.ndarray | None = None) -> tuple[pl.DataFrame, dict]:
    summary = reader.read(layout.write(folder / "raw", train, val), folder / "meds")
    return events_in(folder / "meds"), summary


def expected(rows: np.ndarray) -> Counter:
    found = Counter((int(patient), BORN, "MEDS_BIRTH") for patient in np.unique(rows[:, 0]))
    for patient, age, token in rows.tolist():
        found[patient, None if token in (1, 2) else BORN + timedelta(days=age), layout.CODES[token]] += 1
    return found


def told(events: pl.DataFrame) -> Counter:
    return Counter(events.select("subject_id", "time", "code").iter_rows())


def test_triples_become_the_events_that_they_name(tmp_path):
    rows = layout.generate(1)
    events, summary = convert(tmp_path, rows)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    assert told(events) == expected(rows)
    for mine in events.partition_by("subject_id"):
        assert mine["code"][0].startswith("GENDER//") and mine["code"][1] == "MEDS_BIRTH"
    metadata = json.loads((tmp_path / "meds" / "metadata" / "dataset.json").read_text())
    assert metadata["pseudo_dates"]["good_for"] == "intervals"
    codes = dict(open_dataset(tmp_path / "meds").codes.select("code", "description").iter_rows())
    assert codes["DIAGNOSIS//ICD10//I10"] == "I10 (essential (primary) hypertension)"
    assert codes["Smoking//mid"] == "Smoking: mid"


def test_validation_patients_are_the_tuning_split(tmp_path):
    train, val = layout.generate(1), layout.generate(2, first=5000, patients=7)
    events, summary = convert(tmp_path, train, val)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    assert told(events) == expected(np.concatenate([train, val]))
    assert summary["subjects"] == {"train": 20, "tuning": 7, "held_out": 0}
    splits = dict(open_dataset(tmp_path / "meds").splits.iter_rows())
    assert splits == {int(p): "tuning" if p >= 5000 else "train" for p in np.unique([*train[:, 0], *val[:, 0]])}
    for split in ("train", "tuning"):
        held = pl.read_parquet(tmp_path / "meds" / "data" / split / "*.parquet")["subject_id"].unique()
        assert {splits[subject] for subject in held} == {split}


def test_without_validation_patients_the_hash_decides(tmp_path):
    convert(tmp_path, layout.generate(1))
    splits = open_dataset(tmp_path / "meds").splits
    assert splits["split"].to_list() == split_of(splits["subject_id"].to_numpy()).tolist()


@pytest.mark.parametrize("age", [0, 5000, 15000, 25000])
def test_deleting_later_years_leaves_earlier_ones_as_they_were(age, tmp_path):
    rows = layout.generate(3)
    events, _ = convert(tmp_path / "all", rows)
    fewer, _ = convert(tmp_path / "until", rows[rows[:, 1] <= age])
    assert fewer.equals(until(events, BORN + timedelta(days=age))) and len(fewer) < len(events)


def test_pieces_and_buckets_do_not_change_the_events(tmp_path, monkeypatch):
    events, _ = convert(tmp_path, layout.generate(4))
    reader.read(tmp_path / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(reader, "PIECE_ROWS", 7)
    steps = []
    reader.read(tmp_path / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert len(list((tmp_path / "small" / "data" / "train").glob("*.parquet"))) > 1
    assert steps[-1][1] == steps[-1][2]


def test_a_patient_in_both_files_is_refused(tmp_path):
    train = layout.generate(1)
    raw = layout.write(tmp_path / "raw", train, train[-3:])
    assert "share 1 patients" in refusal(reader.read, raw, tmp_path / "meds")


def test_an_output_that_exists_is_refused(tmp_path):
    (tmp_path / "meds").mkdir()
    (tmp_path / "meds" / "x").touch()
    with pytest.raises(InputError, match="already exists"):
        reader.read(layout.write(tmp_path / "raw", layout.generate(1)), tmp_path / "meds")


@pytest.mark.data
def test_the_real_file_to_the_row(data_folder, tmp_path):
    folder = data_folder / "delphi-simulated"
    summary = reader.read(folder, tmp_path / "meds")
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    rows = list(struct.iter_unpack("<III", (folder / "train.bin").read_bytes()))
    names = (folder / "labels.csv").read_text().splitlines()
    assert summary["tables"]["train"]["rows"] == summary["tables"]["train"]["rows_emitted"] == len(rows)
    kinds = Counter()
    for _, _, token in rows:
        name = names[token + 1]
        kinds["MEDS_DEATH" if name == "Death" else "GENDER" if name in ("Female", "Male") else "DIAGNOSIS"] += 1
    unknown = sum(names[token + 1].startswith("CXX") for _, _, token in rows)
    expected_kinds = {**kinds, "MEDS_BIRTH": len({row[0] for row in rows})}
    if unknown:
        expected_kinds |= {"DIAGNOSIS": kinds["DIAGNOSIS"] - unknown, "DELPHI": unknown}
    assert summary["events_by_family"] == expected_kinds
    events = events_in(tmp_path / "meds")
    some = {402867, 402868, 402999, 410000}
    mine = Counter()
    for patient, age, token in rows:
        if patient in some:
            name = names[token + 1]
            code = {"Death": "MEDS_DEATH", "Female": "GENDER//Female", "Male": "GENDER//Male"}.get(
                name, f"DIAGNOSIS//ICD10//{name[:3]}"
            )
            mine[patient, None if code.startswith("GENDER") else BORN + timedelta(days=age), code] += 1
    mine.update((patient, BORN, "MEDS_BIRTH") for patient in {key[0] for key in mine})
    assert told(events.filter(pl.col("subject_id").is_in(list(some)))) == mine
