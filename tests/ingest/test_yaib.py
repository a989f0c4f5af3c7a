"""The reader of YAIB's hourly series: cells to events, outcomes to labels."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import conversion
from ehrjax.ingest import yaib as reader
from tests.ingest import yaib_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, labels_in, until

BEGIN = datetime(2000, 1, 1)


def convert(frames: layout.Frames, folder: Path, **settings: object) -> tuple[pl.DataFrame, dict]:
    summary = reader.read(layout.write(frames, folder / "raw"), folder / "meds", reader.Settings(**settings))
    return events_in(folder / "meds"), summary


def expected_cells(folder: Path) -> Counter:
    """(stay, time, variable, value) of every cell of dyn that holds a value, straight from the file."""
    found: Counter = Counter()
    for row in pq.read_table(folder / "dyn.parquet").to_pylist():
        for name, value in row.items():
            if name not in ("stay_id", "time") and value is not None and value == value:
                found[row["stay_id"], BEGIN + row["time"], name, pl.Series([value], dtype=pl.Float32)[0]] += 1
    return found


def cells(events: pl.DataFrame) -> Counter:
    hourly = events.filter(pl.col("code").str.contains("^(LAB|VITAL|OUTPUT|VARIABLE)//"))
    name = pl.col("code").str.split("//").list.get(1)
    return Counter(hourly.select("subject_id", "time", name, "numeric_value").iter_rows())


def test_every_cell_is_an_event_and_every_stay_begins(tmp_path):
    frames = layout.generate(1)
    events, summary = convert(frames, tmp_path)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    assert cells(events) == expected_cells(tmp_path / "raw")
    first = events.filter(pl.col("subject_id") == 104)
    age = frames["sta"]["age"][1]
    assert first["code"][:6].to_list() == [
        "GENDER//Male",
        "AGE//years",
        "HEIGHT//cm",
        "WEIGHT//kg",
        "MEDS_BIRTH",
        "ICU_ADMISSION",
    ]
    assert first["time"][4:6].to_list() == [BEGIN - timedelta(days=age * 365.25), BEGIN]
    assert set(events.filter(pl.col("time") >= BEGIN)["visit_id"]) == set(frames["sta"]["stay_id"])
    assert {"LAB//crea//mg/dL", "VITAL//temp//C", "OUTPUT//urine//mL"} <= set(events["code"])
    metadata = json.loads((tmp_path / "meds" / "metadata" / "dataset.json").read_text())
    assert metadata["pseudo_dates"]["good_for"] == "intervals"


def test_hourly_labels_have_the_time_of_their_hour(tmp_path):
    frames = layout.generate(2)
    convert(frames, tmp_path, task="aki")
    labels = labels_in(tmp_path / "meds", "aki")
    assert labels.rows() == [(stay, BEGIN + time, label) for stay, time, label in frames["outc"].rows()]


def test_a_label_of_a_stay_is_asked_for_at_the_hour_of_the_option(tmp_path):
    frames = layout.generate(3, timed=False)
    convert(frames, tmp_path, task="mortality24", prediction_hour=3)
    labels = labels_in(tmp_path / "meds", "mortality24")
    assert set(labels["prediction_time"]) == {BEGIN + timedelta(hours=3)}
    assert labels["boolean_value"].to_list() == frames["outc"]["label"].to_list()


@pytest.mark.parametrize(
    ("values", "dtype", "column"),
    [
        ([0, 1, 1], pl.Int32, "boolean_value"),
        ([0.0, 1.0, 1.0], pl.Float64, "boolean_value"),
        ([0, 3, 7], pl.Int32, "integer_value"),
        ([0.0, 3.0, 7.5], pl.Float64, "float_value"),
    ],
)
def test_the_kind_of_label_follows_its_values(values, dtype, column, tmp_path):
    frames = layout.generate(1, stays=3, timed=False)
    frames["outc"] = frames["outc"].with_columns(pl.Series("label", values, dtype))
    convert(frames, tmp_path)
    assert labels_in(tmp_path / "meds", "outcome")[column].to_list() == values


@pytest.mark.parametrize("hour", [0, 2, 3])
def test_deleting_later_hours_leaves_earlier_ones_as_they_were(hour, tmp_path):
    frames = layout.generate(4)
    events, _ = convert(frames, tmp_path / "all")
    now = timedelta(hours=hour)
    known = {**frames, "dyn": frames["dyn"].filter(pl.col("time") <= now)}
    fewer, _ = convert(known, tmp_path / "until")
    assert fewer.equals(until(events, BEGIN + now)) and len(fewer) < len(events)


def test_pieces_and_buckets_do_not_change_the_events(tmp_path, monkeypatch):
    events, _ = convert(layout.generate(5), tmp_path)
    reader.read(tmp_path / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(reader, "PIECE_ROWS", 3)
    reader.read(tmp_path / "raw", tmp_path / "small")
    assert events_in(tmp_path / "small").equals(events)
    assert labels_in(tmp_path / "small", "outcome").equals(labels_in(tmp_path / "meds", "outcome"))


@pytest.mark.parametrize("name", ["", "..", "a/../b", "/a"])
def test_a_task_name_cannot_lead_elsewhere(name, tmp_path):
    with pytest.raises(InputError, match="task name"):
        reader.read(layout.write(layout.generate(1), tmp_path / "raw"), tmp_path / "meds", reader.Settings(task=name))


@pytest.mark.data
@pytest.mark.parametrize("task", ["los", "aki", "mortality24"])
def test_the_real_cohorts_to_the_cell(task, data_folder, tmp_path):
    raw = data_folder / "yaib-demo" / task / "eicu_demo"
    summary = reader.read(raw, tmp_path / "meds", reader.Settings(task=task))
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    dyn, sta, outc = (pq.read_table(raw / f"{name}.parquet") for name in ("dyn", "sta", "outc"))
    filled = sum(len(dyn[n]) - dyn[n].null_count for n in dyn.schema.names if n not in ("stay_id", "time"))
    nans = sum(v != v for n in dyn.schema.names if n not in ("stay_id", "time") for v in dyn[n].drop_null().to_pylist())
    known = {n: len(sta) - sta[n].null_count for n in ("age", "sex", "height", "weight")}
    assert summary["tables"]["dyn"]["events"] == filled - nans
    assert summary["tables"]["sta"]["events"] == sum(known.values()) + known["age"] + len(sta)
    assert summary["tables"]["dyn"]["rows"] == len(dyn) and summary["implausible_values"] == {}
    labels = labels_in(tmp_path / "meds", task)
    assert len(labels) == len(outc)
    value = "float_value" if task == "los" else "boolean_value"
    assert labels[value].to_list() == outc["label"].to_pylist()
    if task == "mortality24":
        assert set(labels["prediction_time"]) == {BEGIN + timedelta(hours=24)}
        events = events_in(tmp_path / "meds")
        assert cells(events) == expected_cells(raw)
    else:
        assert labels["prediction_time"].to_list() == [BEGIN + time for time in outc["time"].to_pylist()]
