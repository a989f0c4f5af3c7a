"""The EHRSHOT reader: events to the row, its split kept, both releases alike, nothing known too early."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import conversion, ehrshot, raw_csv
from ehrjax.ingest.labels import reading
from ehrjax.ingest.meds import open_dataset
from tests.ingest import ehrshot_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, until

FAMILY = {
    "visit_occurrence": "VISIT_START//",
    "visit_detail": "VISIT_DETAIL_START//",
    "condition_occurrence": "DIAGNOSIS//",
    "procedure_occurrence": "PROCEDURE//",
    "drug_exposure": "MEDICATION//",
    "measurement": "MEASUREMENT//",
    "observation": "OBSERVATION//",
    "note": "NOTE//",
    "death": "DEATH_CAUSE//",
}


def write(tables: dict[str, pl.DataFrame], folder: Path) -> Path:
    for name, frame in tables.items():
        (folder / layout.PLACES[name]).mkdir(parents=True)
        frame.write_csv(folder / layout.PLACES[name] / f"{name}.csv")
    return folder


def convert(tables: dict[str, pl.DataFrame], folder: Path) -> tuple[pl.DataFrame, dict]:
    summary = ehrshot.read(write(tables, folder / "raw"), folder / "meds")
    return events_in(folder / "meds"), summary


def expected(rows: list[dict[str, str | None]]) -> Counter:
    """(subject, time, code, value, text, visit) of every event, told row by row."""
    found: Counter = Counter()
    once: set = set()
    stays = {}
    for row in rows:
        if row["omop_table"] == "visit_occurrence":
            stays[float(row["visit_id"])] = datetime.fromisoformat(row["start"])
    for row in rows:
        subject, time = int(row["patient_id"]), datetime.fromisoformat(row["start"])
        visit = float(row["visit_id"]) if row["visit_id"] else None

        def emit(time, code, number=None, text=None, key=None, subject=subject, visit=visit) -> None:
            if key and (subject, key) in once:
                return
            once.add((subject, key))
            seen = int(visit) if time and visit in stays and stays[visit] <= time else None
            found[subject, time, code, number, text, seen] += 1

        vocabulary, rest = row["code"].split("/", 1)
        if row["code"] == "SNOMED/3950001":
            emit(time, "MEDS_BIRTH", key="birth")
        elif row["code"] == "SNOMED/419620001" or vocabulary == "Death Type":
            emit(time, "MEDS_DEATH", key="death")
        elif vocabulary in ("Gender", "Race", "Ethnicity"):
            emit(None, f"{vocabulary.upper()}//{rest}", key=row["code"])
        else:
            code = f"{FAMILY.get(row['omop_table'], '')}{vocabulary}//{rest}"
            if row["omop_table"] in ("measurement", "observation"):
                code += f"//{row['unit'] or 'UNK'}"
            elif row["omop_table"] is None and row["unit"]:
                code += f"//{row['unit']}"
            try:
                number, text = float(row["value"] or "nan"), None
                number = None if number != number else pl.Series([number], dtype=pl.Float32)[0]
                text = "nan" if row["value"] == "nan" else None
            except ValueError:
                number, text = None, row["value"]
            emit(time, code, number, text)
            if row["omop_table"] in ("visit_occurrence", "visit_detail") and row["end"]:
                end = max(time, datetime.fromisoformat(row["end"]))
                emit(end, code.replace("_START//", "_END//", 1))
    return found


def as_counter(events: pl.DataFrame) -> Counter:
    names = ("subject_id", "time", "code", "numeric_value", "text_value", "visit_id")
    return Counter(events.select(names).iter_rows())


@pytest.mark.parametrize("seed", [1, 2])
def test_generated_rows_give_exactly_the_events_that_they_tell(seed, tmp_path):
    tables = layout.generate(seed)
    events, summary = convert(tables, tmp_path)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    assert as_counter(events) == expected(tables["ehrshot"].to_dicts())
    assert summary["tables"]["ehrshot"]["rows"] == len(tables["ehrshot"])
    # Two codes of one death: the second tells nothing new.
    assert set(summary["tables"]["ehrshot"]["rows_set_aside"]) == {"repeats a birth, a death or a static fact"}


def test_the_split_of_the_benchmark_is_kept(tmp_path):
    tables = layout.generate(3)
    tables["person_id_map"] = tables["person_id_map"].head(4)
    _, summary = convert(tables, tmp_path)
    assert summary["subjects_without_split"] == 1
    told = dict(open_dataset(tmp_path / "meds").splits.iter_rows())
    names = {"train": "train", "val": "tuning", "test": "held_out"}
    for row in tables["person_id_map"].to_dicts():
        assert told[int(row["omop_person_id"])] == names[row["split"]]


def test_both_releases_give_the_same_events(tmp_path):
    tables = layout.generate(4)
    frame = tables["ehrshot"].with_columns(pl.col("value").replace({"nan": None}))
    events, _ = convert({**tables, "ehrshot": frame}, tmp_path)
    layout.write_release(frame, tables["person_id_map"], tmp_path / "release")
    ehrshot.read(tmp_path / "release", tmp_path / "from_release")
    assert events_in(tmp_path / "from_release").equals(events)
    first, second = open_dataset(tmp_path / "meds"), open_dataset(tmp_path / "from_release")
    assert first.splits.equals(second.splits)
    described = dict(second.codes.select("code", "description").iter_rows())
    assert described["MEASUREMENT//LOINC//2345-7//mg/dL"] == "Measurement: Glucose (mg/dL)"


def test_the_athena_download_names_the_codes_and_what_stands_above(tmp_path):
    tables = layout.generate(5)
    write(tables, tmp_path / "raw")
    athena = tmp_path / "raw" / "athena_download"
    athena.mkdir()
    (athena / "CONCEPT.csv").write_text(
        "concept_id\tconcept_name\tvocabulary_id\tconcept_code\n201826\tType 2 diabetes mellitus\tSNOMED\t44054006\n"
        '201820\tDiabetes "mellitus"\tSNOMED\t73211009\n'
    )
    (athena / "CONCEPT_RELATIONSHIP.csv").write_text(
        "concept_id_1\tconcept_id_2\trelationship_id\tinvalid_reason\n201826\t201820\tIs a\t\n"
    )
    ehrshot.read(tmp_path / "raw", tmp_path / "meds")
    codes = {row["code"]: row for row in open_dataset(tmp_path / "meds").codes.to_dicts()}
    assert codes["DIAGNOSIS//SNOMED//44054006"]["description"] == "Diagnosis: Type 2 diabetes mellitus"
    assert codes["DIAGNOSIS//SNOMED//44054006"]["parent_codes"] == ["DIAGNOSIS//SNOMED//73211009"]


def test_the_benchmarks_labels_fit_the_events(tmp_path):
    tables = layout.generate(6)
    convert(tables, tmp_path)
    file = tmp_path / "labeled_patients.csv"
    ids = tables["person_id_map"]["omop_person_id"].to_list()
    file.write_text(
        "patient_id,prediction_time,label_type,value\n"
        + "".join(f"{i},2012-05-01T23:59,boolean,{n % 2 == 0}\n" for n, i in enumerate(ids))
    )
    labels = reading.read_labels(file)
    assert set(labels.frame["subject_id"]) == set(events_in(tmp_path / "meds")["subject_id"])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deleting_later_rows_leaves_earlier_events_as_they_were(seed, tmp_path):
    tables = layout.generate(seed)
    events, _ = convert(tables, tmp_path / "all")
    times = events["time"].drop_nulls().sort()
    for place in (0.4, 0.7):
        cut = times[int(place * len(times))]
        start = pl.col("start").str.to_datetime("%Y-%m-%d %H:%M:%S")
        end = pl.col("end").str.to_datetime("%Y-%m-%d %H:%M:%S")
        kept = tables["ehrshot"].filter(start <= cut).with_columns(pl.when(end <= cut).then("end").alias("end"))
        fewer, _ = convert({**tables, "ehrshot": kept}, tmp_path / str(place))
        assert until(fewer, cut).equals(until(events, cut))


def test_blocks_buckets_and_formats_do_not_change_the_events(tmp_path, monkeypatch):
    tables = layout.generate(7)
    events, _ = convert(tables, tmp_path / "one")
    ehrshot.read(tmp_path / "one" / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "one" / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 1000, "on_bytes": None})
    steps = []
    ehrshot.read(tmp_path / "one" / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert steps[-1][1] == steps[-1][2]
    # The older drop: one compressed file, no visits or tables.
    packed = tmp_path / "old"
    packed.mkdir()
    old = tables["ehrshot"].drop("visit_id", "omop_table")
    (packed / "ehrshot.csv.zst").write_bytes(pa.compress(old.write_csv().encode(), codec="zstd", asbytes=True))
    ehrshot.read(packed, tmp_path / "from_old")
    check_meds(tmp_path / "from_old")
    assert "SNOMED//44054006" in set(events_in(tmp_path / "from_old")["code"])


def test_a_folder_without_ehrshot_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"neither data/ehrshot\.csv"):
        ehrshot.read(tmp_path, tmp_path / "meds")
