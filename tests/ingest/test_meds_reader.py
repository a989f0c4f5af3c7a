"""The MEDS reader: what others wrote, in whatever order, becomes a valid dataset with the same events."""

from __future__ import annotations

import json

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import conversion, mimic_iv
from ehrjax.ingest import meds_reader as reader
from ehrjax.ingest.meds import open_dataset
from tests.ingest import meds_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in

COLUMNS = ("subject_id", "time", "code", "numeric_value", "text_value")


def test_events_codes_and_split_are_kept(tmp_path):
    frame = layout.generate(1)
    summary = reader.read(layout.write(frame, tmp_path / "raw"), tmp_path / "meds")
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    events = events_in(tmp_path / "meds")
    assert events.select(COLUMNS).equals(frame.select(COLUMNS))
    assert summary["split_from"] == "metadata/subject_splits.parquet" and summary["meds_version"] == "0.4.0"
    assert summary["columns_not_read"] == ["hadm_id", "unit"] and events["visit_id"].null_count() == len(frame)
    dataset = open_dataset(tmp_path / "meds")
    told = pl.read_parquet(tmp_path / "raw" / "metadata" / "subject_splits.parquet").sort("subject_id")
    assert dataset.splits.sort("subject_id").equals(told)
    codes = {row["code"]: row for row in dataset.codes.to_dicts()}
    assert codes["DIAGNOSIS//ICD10CM//E11.9"]["description"] == "Type 2 diabetes"
    assert codes["DIAGNOSIS//ICD10CM//E11.9"]["parent_codes"] == ["DIAGNOSIS//ICD10CM//E11"]
    assert codes["GENDER//F"]["description"] == "GENDER//F", "a code without a description is its own"
    assert dataset.metadata["dataset_name"] == "Elsewhere" and dataset.metadata["license"] == "open"


def test_visits_and_units_of_other_names(tmp_path):
    frame = layout.generate(2)
    settings = reader.Settings(visit_column="hadm_id", unit_column="unit")
    summary = reader.read(layout.write(frame, tmp_path / "raw"), tmp_path / "meds", settings)
    events = events_in(tmp_path / "meds")
    timed = frame["time"].is_not_null()
    assert events["visit_id"].equals(frame["hadm_id"].set(~timed, None).alias("visit_id"))
    labs = frame["numeric_value"].is_not_null()
    assert set(events.filter(labs)["code"]) == {"LAB//GLU//mg/dL"}
    assert events.filter(~labs)["code"].equals(frame.filter(~labs)["code"])
    described = dict(open_dataset(tmp_path / "meds").codes.select("code", "description").iter_rows())
    assert described["LAB//GLU//mg/dL"] == "Glucose" and summary["columns_not_read"] == []
    for wrong in ({"visit_column": "stay"}, {"unit_column": "units"}):
        with pytest.raises(InputError, match="No event file has a column"):
            reader.read(tmp_path / "raw", tmp_path / "none", reader.Settings(**wrong))


def test_what_0_3_3_and_others_leave_out_or_write_otherwise(tmp_path):
    frame = layout.generate(3)
    # No metadata, no optional columns, times in other units: the folders below data give the split.
    bare = frame.select("subject_id", pl.col("time").cast(pl.Datetime("ns")), pl.col("code").cast(pl.Categorical))
    summary = reader.read(layout.write(bare, tmp_path / "bare", metadata=False), tmp_path / "meds")
    check_meds(tmp_path / "meds")
    assert summary["split_from"] == "data"
    assert events_in(tmp_path / "meds").select(COLUMNS[:3]).equals(frame.select(COLUMNS[:3]))
    given = dict(open_dataset(tmp_path / "meds").splits.iter_rows())
    assert sorted(set(given.values())) == ["held_out", "train", "tuning"]
    # One file, subjects and times mixed, text times: ordered; the split is by hash.
    mixed = frame.sample(fraction=1, shuffle=True, seed=0).with_columns(pl.col("time").dt.strftime("%Y-%m-%d %H:%M:%S"))
    (tmp_path / "mixed").mkdir()
    mixed.write_parquet(tmp_path / "mixed" / "all.parquet")
    summary = reader.read(tmp_path / "mixed", tmp_path / "ordered")
    check_meds(tmp_path / "ordered")
    assert summary["split_from"] == "a hash of subject_id"
    keys = ["subject_id", "time", "code", "numeric_value"]
    assert events_in(tmp_path / "ordered").select(keys).sort(keys).equals(frame.select(keys).sort(keys))


def test_our_own_datasets_come_back_as_they_were(tmp_path, monkeypatch):
    frame = layout.generate(4).rename({"hadm_id": "visit_id"}).drop("unit")
    frame = frame.with_columns(pl.when(pl.col("time").is_not_null()).then("visit_id").alias("visit_id"))
    reader.read(layout.write(frame, tmp_path / "raw"), tmp_path / "one")
    reader.read(tmp_path / "one", tmp_path / "two")
    assert events_in(tmp_path / "two").equals(events_in(tmp_path / "one"))
    assert (tmp_path / "two/metadata/codes.parquet").read_bytes() == (
        tmp_path / "one/metadata/codes.parquet"
    ).read_bytes()
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 500)
    reader.read(tmp_path / "raw", tmp_path / "small")
    assert events_in(tmp_path / "small").equals(events_in(tmp_path / "one"))
    reader.read(tmp_path / "raw", tmp_path / "small_again")
    assert digests(tmp_path / "small_again") == digests(tmp_path / "small")


def test_pseudo_dates_and_roles_are_kept(tmp_path):
    layout.write(layout.generate(5), tmp_path / "raw")
    path = tmp_path / "raw" / "metadata" / "dataset.json"
    told = {
        **json.loads(path.read_text()),
        "pseudo_dates": {"good_for": "order", "why": "x"},
        "roles": {"lab": ["LAB//"]},
    }
    path.write_text(json.dumps(told))
    reader.read(tmp_path / "raw", tmp_path / "meds")
    metadata = open_dataset(tmp_path / "meds").metadata
    assert metadata["pseudo_dates"]["good_for"] == "order" and metadata["roles"] == {"lab": ["LAB//"]}


@pytest.mark.data
def test_the_mimic_demo_through_the_reader_is_the_mimic_demo(data_folder, tmp_path):
    mimic_iv.read(data_folder / "mimic-iv-demo", tmp_path / "one")
    summary = reader.read(tmp_path / "one", tmp_path / "two")
    check_meds(tmp_path / "two")
    check_accounting(summary)
    first, second = events_in(tmp_path / "one"), events_in(tmp_path / "two")
    assert len(first) == summary["tables"]["data"]["rows"]
    # Texts lose blanks at their ends, nothing else changes.
    assert second.equals(first.with_columns(pl.col("text_value").str.strip_chars()))
