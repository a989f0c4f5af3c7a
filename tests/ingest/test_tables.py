"""The reader of any tables: the shipped mappings on made-up rows, told again by hand; what a mapping may not say."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from ehrjax.core.errors import InputError
from ehrjax.ingest import conversion, raw_csv, roles, tables
from ehrjax.ingest.meds import open_dataset
from tests.conftest import ROOT
from tests.ingest import tables_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, refusal, until

DAY_END = timedelta(days=1) - timedelta(microseconds=1)
CONFIGS = ROOT / "configs" / "tables"


def write(frames: layout.Frames, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, frame in frames.items():
        frame.write_csv(folder / f"{name}.csv")
    return folder


def convert(frames: layout.Frames, folder: Path, mapping: Path) -> tuple[pl.DataFrame, dict]:
    summary = tables.read(write(frames, folder / "raw"), folder / "meds", tables.Settings(str(mapping)))
    check_meds(folder / "meds")
    check_accounting(summary)
    return events_in(folder / "meds"), summary


def as_counter(events: pl.DataFrame, ids: dict[int, str]) -> Counter:
    named = [(ids.get(s, s), *rest) for s, *rest in events.select(
        "subject_id", "time", "code", "numeric_value", "text_value", "visit_id").iter_rows()]  # fmt: skip
    return Counter(named)


def names(folder: Path) -> dict[int, str]:
    frame = pl.read_parquet(folder / "metadata" / "subject_ids.parquet")
    return dict(frame.select("subject_id", "source_id").iter_rows())


def f32(value: float) -> float:
    return pl.Series([value], dtype=pl.Float32)[0]


def expected_warehouse(frames: layout.Frames) -> Counter:
    rows = {name: frame.to_dicts() for name, frame in frames.items()}
    stays = {row["encounter_id"]: row for row in rows["encounters"]}
    at = datetime.fromisoformat
    found: Counter = Counter()
    for row in rows["patients"]:
        who = row["patient_id"]
        found[who, None, f"GENDER//{ {'1': 'M', '2': 'F'}[row['sex']] }", None, None, None] += 1
        found[who, at(row["birth_date"]), "MEDS_BIRTH", None, None, None] += 1
        if row["death_date"]:
            found[who, at(row["death_date"]) + DAY_END, "MEDS_DEATH", None, None, None] += 1
    for row in rows["encounters"]:
        if row["status"] != "cancelled":
            key, visit = row["patient_id"], int(row["encounter_id"])
            found[key, at(row["admitted_at"]), f"HOSPITAL_ADMISSION//{row['kind'] or 'UNK'}", None, None, visit] += 1
            end = f"HOSPITAL_DISCHARGE//{row['disposition'] or 'UNK'}"
            found[key, at(row["discharged_at"]), end, None, None, visit] += 1
    for row in rows["lab_results"]:
        time, stay = at(row["taken_at"]), stays[row["encounter_id"]]
        visit = int(row["encounter_id"]) if at(stay["admitted_at"]) <= time else None
        number = f32(5.5) if row["result"] == "5.5" else None
        code = f"LAB//{row['test']}//{row['unit'] or 'UNK'}"
        found[row["patient_id"], time, code, number, None if number else row["result"], visit] += 1
    for row in rows["diagnoses"]:
        if row["icd10"]:
            time = at(stays[row["encounter_id"]]["discharged_at"])
            code = f"DIAGNOSIS//ICD10CM//{row['icd10']}"
            found[row["patient_id"], time, code, None, None, int(row["encounter_id"])] += 1
    for row in rows["prescriptions"]:
        visit = int(row["encounter_id"]) if row["encounter_id"] else None
        found[row["patient_id"], at(row["ordered_at"]), "MEDICATION//Aspirin 100", None, None, visit] += 1
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_warehouse_mapping_gives_exactly_what_the_rows_tell(seed, tmp_path):
    frames = layout.warehouse(seed)
    events, summary = convert(frames, tmp_path, CONFIGS / "warehouse.yaml")
    assert as_counter(events, names(tmp_path / "meds")) == expected_warehouse(frames)
    cancelled = (frames["encounters"]["status"] == "cancelled").sum()
    assert summary["tables"]["encounters"]["rows_set_aside"] == (
        {"status is cancelled": cancelled} if cancelled else {}
    )
    dataset = open_dataset(tmp_path / "meds")
    told = dict(dataset.codes.select("code", "description").iter_rows())
    assert told.get("DIAGNOSIS//ICD10CM//E119", "Type 2 diabetes") == "Type 2 diabetes"
    labs = {code: text for code, text in told.items() if code.startswith("LAB//")}
    assert all(text.startswith("Laboratory test: ") for text in labs.values())
    assert set(roles.of(dataset).present(dataset.codes["code"]).patterns) >= {
        "admission",
        "discharge",
        "diagnosis",
        "lab",
    }


def test_claims_count_from_their_last_day(tmp_path):
    frames = layout.claims(1)
    events, summary = convert(frames, tmp_path, CONFIGS / "claims.yaml")
    found: Counter = Counter()
    day = lambda text: datetime.strptime(text, "%Y%m%d")  # noqa: E731
    for row in frames["members"].to_dicts():
        found[int(row["member_id"]), None, "GENDER//F", None, None, None] += 1
        found[int(row["member_id"]), day(row["date_of_birth"]), "MEDS_BIRTH", None, None, None] += 1
    for row in frames["medical_claims"].to_dicts():
        if row["claim_status"] == "D":
            continue
        who, visit = int(row["member_id"]), int(row["claim_id"])
        place = {"21": "INPATIENT", "11": "OUTPATIENT"}.get(row["place_of_service"], row["place_of_service"])
        start, end = day(row["service_from"]) + DAY_END, day(row["service_to"]) + DAY_END
        found[who, start, f"CLAIM_START//{place}", None, None, visit] += 1
        found[who, end, f"CLAIM_END//{place}", None, None, visit] += 1
        for column in ("dx1", "dx2", "dx3"):
            if row[column]:
                found[who, end, f"DIAGNOSIS//ICD10CM//{row[column]}", None, None, visit] += 1
        if row["proc1"]:
            found[who, end, f"PROCEDURE//CPT//{row['proc1']}", None, None, visit] += 1
    for row in frames["pharmacy_claims"].to_dicts():
        code = f"MEDICATION//NDC//{row['ndc']}//days"
        found[int(row["member_id"]), day(row["fill_date"]) + DAY_END, code, f32(30.0), None, None] += 1
    assert as_counter(events, {}) == found
    told = dict(open_dataset(tmp_path / "meds").codes.select("code", "description").iter_rows())
    assert told["MEDICATION//NDC//00093721401//days"] == "Dispensed: Metformin"


def test_uk_biobank_reads_the_array_columns_that_are_there(tmp_path):
    frames = layout.biobank()
    raw = write({"ukb": frames["ukb"]}, tmp_path / "raw")
    frames["gp_clinical"].write_csv(raw / "gp_clinical.txt", separator="\t")
    summary = tables.read(raw, tmp_path / "meds", tables.Settings(str(CONFIGS / "uk_biobank.yaml")))
    check_meds(tmp_path / "meds")
    assert summary["absent_tables"] == ["gp_scripts"]
    events = events_in(tmp_path / "meds").filter(pl.col("subject_id") == 1000017)
    assert events.select("time", "code", "numeric_value").rows() == [
        (None, "GENDER//F", None),
        (datetime(1951, 1, 1), "MEDS_BIRTH", None),
        (datetime(2004, 3, 17) + DAY_END, "DIAGNOSIS//READ2//246..", 140.0),
        (datetime(2008, 5, 6) + DAY_END, "MEASUREMENT//BMI//kg/m2", f32(27.1)),
        (datetime(2009, 11, 30) + DAY_END, "DIAGNOSIS//ICD10//I10", None),
        (datetime(2013, 1, 2) + DAY_END, "MEASUREMENT//BMI//kg/m2", None),
        (datetime(2014, 2, 3) + DAY_END, "DIAGNOSIS//ICD10//E11.9", None),
        (datetime(2021, 3, 4) + DAY_END, "MEDS_DEATH", None),
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_deleting_what_was_known_later_leaves_the_beginning_as_it_was(seed, tmp_path):
    frames = layout.warehouse(seed)
    events, _ = convert(frames, tmp_path / "all", CONFIGS / "warehouse.yaml")
    stays = {row["encounter_id"]: row for row in frames["encounters"].to_dicts()}
    times = events.filter(pl.col("code") != "MEDS_BIRTH")["time"].drop_nulls().sort()
    for place in (0.3, 0.7):
        cut = times[int(place * len(times))]
        kept = dict(frames)
        late = pl.col("discharged_at") > str(cut)
        kept["encounters"] = frames["encounters"].filter(pl.col("admitted_at") <= str(cut)).with_columns(
            pl.when(~late).then(pl.col(c)).alias(c) for c in ("discharged_at", "disposition")
        )  # fmt: skip
        kept["lab_results"] = frames["lab_results"].filter(pl.col("taken_at") <= str(cut))
        kept["prescriptions"] = frames["prescriptions"].filter(pl.col("ordered_at") <= str(cut))
        ended = [stays[e]["discharged_at"] <= str(cut) for e in frames["diagnoses"]["encounter_id"]]
        kept["diagnoses"] = frames["diagnoses"].filter(pl.Series(ended))
        died = (pl.col("death_date") + " 23:59:59.999999") <= str(cut)
        kept["patients"] = frames["patients"].with_columns(pl.when(died).then("death_date").alias("death_date"))
        # A visit that has not begun is nobody's: rows filed under it later have none yet.
        fewer, _ = convert(kept, tmp_path / str(place), CONFIGS / "warehouse.yaml")
        assert until(fewer, cut).drop("visit_id").equals(until(events, cut).drop("visit_id"))


def test_blocks_and_buckets_do_not_change_the_events(tmp_path, monkeypatch):
    mapping = tables.Settings(str(CONFIGS / "warehouse.yaml"))
    events, _ = convert(layout.warehouse(4), tmp_path / "one", CONFIGS / "warehouse.yaml")
    tables.read(tmp_path / "one" / "raw", tmp_path / "again", mapping)
    assert digests(tmp_path / "again") == digests(tmp_path / "one" / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 1000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 500, "on_bytes": None})
    steps = []
    tables.read(tmp_path / "one" / "raw", tmp_path / "small", mapping, progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert steps[-1][1] == steps[-1][2]


SMALL = {"tables": [{"file": "t", "subject": "id", "time": "at", "events": [{"code": "A//{x}"}]}]}
WRONG = [
    ({"tables": []}, "tables is empty"),
    ({}, "lacks the key 'tables'"),
    ([1], "must be a mapping"),
    ({**SMALL, "dataset": "x"}, "has no key 'dataset'; did you mean 'dataset_name'?"),
    ({**SMALL, "subject_ids": "words"}, "must be number or text"),
    ({**SMALL, "visit_ids": "words"}, "must be number or text"),
    ({**SMALL, "pseudo_dates": {"good_for": "nothing", "why": "x"}}, "pseudo_dates needs good_for"),
    ({**SMALL, "roles": {"labs": ["x"]}}, "roles has no 'labs'"),
    ({**SMALL, "roles": {"lab": ["("]}}, "no regular expression"),
    ({"tables": [{**SMALL["tables"][0], "events": []}]}, "tables[0]: events is empty"),
    ({"tables": [{**SMALL["tables"][0], "tme": "x"}]}, "tables[0] has no key 'tme'; did you mean 'time'?"),
    ({"tables": [{**SMALL["tables"][0], "required": "maybe"}]}, "required must be true or false"),
    ({"tables": [{"file": "t", "subject": "id", "events": [{"code": "A"}]}]}, "names a column of times"),
    ({"tables": [{**SMALL["tables"][0], "events": [{"code": ""}]}]}, "events[0]: code is empty"),
    ({"tables": [{**SMALL["tables"][0], "events": [{"time": "at"}]}]}, "events[0] lacks the key 'code'"),
    ({"tables": [{**SMALL["tables"][0], "events": [{"code": "A", "repeat": [1]}]}]}, "[first, last]"),
    ({"tables": [{**SMALL["tables"][0], "join": [{"file": "u", "by": "id"}]}]}, "join[0] lacks the key 'take'"),
    ({**SMALL, "descriptions": [{"file": "u"}]}, "descriptions[0] lacks the key 'code'"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_a_wrong_mapping_is_one_sentence_with_its_place(case, tmp_path):
    given, words = WRONG[case]
    path = tmp_path / "mapping.yaml"
    path.write_text(yaml.safe_dump(given))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "t.csv").write_text("id,at,x\n1,2015-01-01,a\n")
    message = refusal(lambda i, o: tables.read(i, o, tables.Settings(str(path))), tmp_path / "raw", tmp_path / "meds")
    assert words in message and "mapping.yaml" in message


def test_no_mapping_or_no_yaml(tmp_path):
    with pytest.raises(InputError, match="needs --mapping"):
        tables.read(tmp_path, tmp_path / "meds")
    with pytest.raises(InputError, match="does not exist"):
        tables.read(tmp_path, tmp_path / "meds", tables.Settings("none.yaml"))
    (tmp_path / "m.yaml").write_text("tables:\n  - {file: [\n")
    with pytest.raises(InputError, match="line 3 is not YAML"):
        tables.read(tmp_path, tmp_path / "meds", tables.Settings(str(tmp_path / "m.yaml")))
    (tmp_path / "evil.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="not YAML"):
        tables.read(tmp_path, tmp_path / "meds", tables.Settings(str(tmp_path / "evil.yaml")))
