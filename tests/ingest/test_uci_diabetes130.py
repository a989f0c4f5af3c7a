"""The reader of the UCI diabetes data: events and labels to the row, order kept, nothing told in advance."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens
from ehrjax.ingest import conversion, raw_csv
from ehrjax.ingest import uci_diabetes130 as reader
from ehrjax.ingest.meds import open_dataset, split_of
from ehrjax.vocab.recipe import Recipe
from tests.ingest import uci_diabetes130_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, labels_in, refusal, until


def write(frame: pl.DataFrame, folder: Path) -> Path:
    folder.mkdir(parents=True)
    frame.write_csv(folder / "diabetic_data.csv")
    (folder / "IDs_mapping.csv").write_text(layout.MAPPING)
    return folder


def convert(frame: pl.DataFrame, folder: Path, **settings: object) -> tuple[pl.DataFrame, dict]:
    summary = reader.read(write(frame, folder / "raw"), folder / "meds", reader.Settings(**settings))
    return events_in(folder / "meds"), summary


def expected_events(rows: list[dict[str, str]]) -> Counter:
    """(subject, time, code, value, visit) of every event, told without the reader."""
    found: Counter = Counter()
    stays = defaultdict(list)
    for row in rows:
        stays[row["patient_nbr"]].append(row)
    before = ("number_outpatient", "number_emergency", "number_inpatient")
    during = ("num_lab_procedures", "num_procedures", "num_medications", "number_diagnoses")
    for patient, mine in stays.items():
        for number, row in enumerate(sorted(mine, key=lambda r: int(r["encounter_id"]))):
            admitted = datetime(2000, 1, 1) + timedelta(days=100 * number)
            left = admitted + timedelta(days=int(row["time_in_hospital"]))
            start, end = [], [(f"HOSPITAL_DISCHARGE//{row['discharge_disposition_id']}", None)]
            end.append(("LENGTH_OF_STAY//days", float(row["time_in_hospital"])))
            start.append((f"HOSPITAL_ADMISSION//{row['admission_type_id']}//{row['admission_source_id']}", None))
            for column, code in (
                ("race", "RACE//{}"),
                ("age", "AGE//{}//years"),
                ("weight", "WEIGHT//{}//lb"),
                ("payer_code", "INSURANCE//{}"),
                ("medical_specialty", "SPECIALTY//{}"),
            ):
                if row[column] != "?":
                    start.append((code.format(row[column]), None))
            start += [(f"PRIOR//{c}", float(row[c])) for c in before]
            end += [(f"COUNT//{c}", float(row[c])) for c in during]
            for column, test in (("max_glu_serum", "glucose"), ("A1Cresult", "A1C")):
                if row[column] != "None":
                    end.append((f"LAB_CLASS//{test}//{row[column]}", None))
            end += [(f"MEDICATION//{d}//{row[d]}", None) for d in layout.DRUGS if row[d] != "No"]
            end += [("MEDICATION_CHANGE", None)] * (row["change"] == "Ch")
            end += [("DIABETES_MEDICATION", None)] * (row["diabetesMed"] == "Yes")
            for column in ("diag_1", "diag_2", "diag_3"):
                if row[column] != "?":
                    whole, _, rest = row[column].partition(".")
                    end.append((f"DIAGNOSIS//ICD9CM//{whole.zfill(3)}{rest}", None))
            end += [("MEDS_DEATH", None)] * (row["discharge_disposition_id"] in ("11", "19", "20", "21"))
            subject, visit = int(patient), int(row["encounter_id"])
            if number == 0 and row["gender"] != "Unknown/Invalid":
                found[subject, None, f"GENDER//{row['gender']}", None, None] += 1
            found.update((subject, admitted, code, value, visit) for code, value in start)
            found.update((subject, left, code, value, visit) for code, value in end)
    return found


def as_counter(events: pl.DataFrame) -> Counter:
    return Counter(events.select("subject_id", "time", "code", "numeric_value", "visit_id").iter_rows())


def test_generated_rows_give_exactly_the_events_that_they_tell(tmp_path):
    frame = layout.generate(1)
    events, summary = convert(frame, tmp_path)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    assert as_counter(events) == expected_events(frame.to_dicts())
    assert summary["tables"]["diabetic_data"]["rows"] == len(frame)
    metadata = json.loads((tmp_path / "meds" / "metadata" / "dataset.json").read_text())
    assert metadata["pseudo_dates"]["good_for"] == "order"
    codes = dict(open_dataset(tmp_path / "meds").codes.select("code", "description").iter_rows())
    assert codes["HOSPITAL_ADMISSION//1//7"] == "Admitted to hospital: Emergency, from Emergency Room"
    assert codes["HOSPITAL_DISCHARGE//22"].endswith("including rehab units of a hospital")
    assert not events["code"].str.contains("(?i)readmi").any(), "the future is no event"


def test_labels_are_asked_for_at_discharge(tmp_path):
    frame = layout.generate(2)
    events, summary = convert(frame, tmp_path)
    labels = labels_in(tmp_path / "meds", "readmission_30d")
    assert len(labels) == len(frame)
    left = events.filter(pl.col("code").str.starts_with("HOSPITAL_DISCHARGE"))
    told = frame.select(pl.col("encounter_id").cast(pl.Int64), pl.col("readmitted") == "<30")
    joined = left.join(told, left_on="visit_id", right_on="encounter_id")
    order = ["subject_id", "time"]
    expected = joined.select("subject_id", "time", pl.col("readmitted").alias("boolean_value")).sort(order)
    assert labels.rename({"prediction_time": "time"}).sort(order).equals(expected)


def test_expired_and_hospice_stays_can_be_left_without_a_label(tmp_path):
    frame = layout.generate(3)
    _, summary = convert(frame, tmp_path, drop_expired=True)
    gone = frame.filter(pl.col("discharge_disposition_id").is_in(["11", "13"])).height
    account = summary["labels"]["readmission_30d"]
    assert account["rows_set_aside"] == {"the stay ended in death or hospice care": gone} and gone
    assert account["labels"] == len(frame) - gone == len(labels_in(tmp_path / "meds", "readmission_30d"))
    assert summary["tables"]["diabetic_data"]["rows_emitted"] == len(frame), "their events stay"


def test_every_patient_is_held_out_in_one_of_ten_folds(tmp_path):
    frame, parts = layout.generate(4, patients=60), []
    for fold in range(reader.FOLDS):
        convert(frame, tmp_path / str(fold), fold=fold)
        parts.append(pl.read_parquet(tmp_path / str(fold) / "meds" / "metadata" / "subject_splits.parquet"))
    held = pl.concat(parts).filter(pl.col("split") == "held_out")["subject_id"]
    assert held.sort().to_list() == sorted(frame["patient_nbr"].cast(pl.Int64).unique())
    assert parts[0]["split"].to_list() == split_of(parts[0]["subject_id"].to_numpy()).tolist()
    with pytest.raises(InputError, match="--fold is 10; it must be from 0 to 9"):
        convert(frame, tmp_path / "more", fold=10)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deleting_later_stays_leaves_earlier_ones_as_they_were(seed, tmp_path):
    frame = layout.generate(seed, patients=5)
    events, _ = convert(frame, tmp_path / "all")
    for number, cut in enumerate((1040, 1100, 1150)):
        kept = frame.filter(pl.col("encounter_id").cast(pl.Int64) <= cut)
        fewer, _ = convert(kept, tmp_path / str(number))
        for subject, mine in fewer.group_by("subject_id", maintain_order=True):
            full = events.filter(pl.col("subject_id") == subject[0])
            assert mine.equals(until(full, mine["time"].max())), "what is left is the beginning of the history"


def test_pseudo_times_allow_order_and_nothing_more(tmp_path):
    convert(layout.generate(1), tmp_path)
    with pytest.raises(InputError, match="good for order only"):
        prepare_tokens.prepare(tmp_path / "meds", tmp_path / "tokens", Recipe("x", steps=("time_tokens",)))


def test_blocks_buckets_and_formats_do_not_change_the_events(tmp_path, monkeypatch):
    frame = layout.generate(4)
    events, _ = convert(frame, tmp_path / "one")
    reader.read(tmp_path / "one" / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "one" / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 2000, "on_bytes": None})
    steps = []
    reader.read(tmp_path / "one" / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert steps[-1][1] == steps[-1][2]
    (tmp_path / "parquet").mkdir()
    frame.write_parquet(tmp_path / "parquet" / "diabetic_data.parquet")
    reader.read(tmp_path / "parquet", tmp_path / "from_parquet")
    assert events_in(tmp_path / "from_parquet").equals(events)


def test_two_copies_of_the_table_are_refused(tmp_path):
    raw = write(layout.generate(1), tmp_path / "raw")
    (raw / "diabetic_data.dev.csv").write_text("x")
    assert "keep one of them" in refusal(reader.read, raw, tmp_path / "meds")


@pytest.mark.data
def test_the_real_file_to_the_row(data_folder, tmp_path):
    folder = data_folder / "uci-diabetes130"
    summary = reader.read(folder, tmp_path / "meds")
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    with gzip.open(folder / "diabetic_data.dev.csv.gz", "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert summary["tables"]["diabetic_data"] == {
        "rows": len(rows),
        "rows_emitted": len(rows),
        "events": summary["events"],
        "rows_set_aside": {},
    }
    events = events_in(tmp_path / "meds")
    expected = expected_events(rows)
    assert len(events) == expected.total()
    some = set(sorted({int(row["patient_nbr"]) for row in rows})[::40])
    assert as_counter(events.filter(pl.col("subject_id").is_in(some))) == Counter(
        {key: count for key, count in expected.items() if key[0] in some}
    )
    families = Counter(key[2].split("//")[0] for key in expected.elements())
    assert summary["events_by_family"] == dict(sorted(families.items()))
    labels = labels_in(tmp_path / "meds", "readmission_30d")
    assert labels["boolean_value"].sum() == sum(row["readmitted"] == "<30" for row in rows)
