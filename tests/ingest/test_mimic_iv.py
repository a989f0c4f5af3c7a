"""The MIMIC-IV reader: valid MEDS, nothing from the future, every row accounted for, bad input refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ehrjax.ingest import conversion, mimic_iv, raw_csv
from ehrjax.ingest import mimic_iv_tables as mimic
from ehrjax.ingest.meds import open_dataset
from tests.ingest import mimic_iv_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, events_in

DATA = os.environ.get("EHRJAX_DATA")
DEMO = Path(DATA or "") / "mimic-iv-demo"
needs_demo = pytest.mark.skipif(not DATA, reason="EHRJAX_DATA does not name the folder with mimic-iv-demo")


@pytest.fixture(scope="module")
def tables() -> layout.Tables:
    return layout.generate(seed=1)


@pytest.fixture(scope="module")
def converted(tables, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("converted")
    return folder / "meds", mimic_iv.read(layout.write(tables, folder / "raw"), folder / "meds")


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("demo") / "meds"
    return folder, mimic_iv.read(DEMO, folder)


def test_generated_hospital_is_valid_meds_and_every_row_is_accounted_for(tables, converted):
    folder, summary = converted
    check_meds(folder)
    check_accounting(summary)
    assert {f"{t.folder}/{t.name}" for t in mimic.TABLES} <= set(tables)
    for table in mimic.TABLES:
        entry = summary["tables"][table.name]
        assert entry["rows"] == len(tables[f"{table.folder}/{table.name}"])
        assert entry["events"] > 0
    assert summary["tables_not_read"] == ["hosp/poe"]
    assert summary["absent_tables"] == []
    labs = summary["tables"]["labevents"]["rows_set_aside"]
    assert labs["subject not in patients"] == 1 and labs["no time"] > 0
    diagnoses = summary["tables"]["diagnoses_icd"]["rows_set_aside"]
    assert diagnoses["no discharge time"] > 0 and diagnoses["no code version"] > 0
    repeats = summary["tables"]["microbiologyevents"]["rows_set_aside"]
    assert repeats["repeats its specimen and test without a new result"] > 0
    written = json.loads((folder / "metadata" / "dataset.json").read_text())
    assert written["reader_summary"] == summary
    assert sorted(p.name for p in folder.iterdir()) == ["data", "metadata"], "temporary files are gone"


def test_compressed_tables_give_the_same_events(tables, converted, tmp_path):
    raw = layout.write(tables, tmp_path / "raw", compress=True)
    mimic_iv.read(raw, tmp_path / "meds")
    assert events_in(tmp_path / "meds").equals(events_in(converted[0]))


def test_blocks_and_buckets_do_not_change_the_events(tables, converted, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 20_000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 4096, "on_bytes": None})
    seen = []
    raw = layout.write(tables, tmp_path / "raw")
    mimic_iv.read(raw, tmp_path / "meds", progress=lambda *step: seen.append(step))
    assert len(list((tmp_path / "meds" / "data" / "train").glob("*.parquet"))) > 3
    assert events_in(tmp_path / "meds").equals(events_in(converted[0]))
    done = [step[1] for step in seen]
    assert done == sorted(done) and done[-1] == seen[-1][2]


def small(**changed: list[dict]) -> layout.Tables:
    """One patient with one admission, and the given rows of other tables (named without their folder)."""
    rows: dict[str, list[dict]] = {
        "patients": [{"subject_id": 7, "gender": "F", "anchor_age": 50, "anchor_year": 2150, "dod": ""}],
        "admissions": [
            {
                "subject_id": 7,
                "hadm_id": 70,
                "admittime": "2150-03-01 10:00:00",
                "dischtime": "2150-03-05 12:00:00",
                "admission_type": "URGENT",
                "admission_location": "PHYSICIAN  REFERRAL",
                "discharge_location": "HOME",
            }
        ],
        **changed,
    }
    tables = {}
    for name, records in rows.items():
        full = next(k for k in layout.LAYOUT if k.split("/")[1] == name)
        columns = layout.LAYOUT[full].split()
        tables[full] = pl.DataFrame(
            {c: [None if r.get(c, "") == "" else str(r[c]) for r in records] for c in columns},
            schema=dict.fromkeys(columns, pl.String),
        )
    return tables


def convert(tables: layout.Tables, folder: Path) -> pl.DataFrame:
    mimic_iv.read(layout.write(tables, folder / "raw"), folder / "meds")
    return events_in(folder / "meds")


def times(events: pl.DataFrame, prefix: str) -> list[str]:
    found = events.filter(pl.col("code").str.starts_with(prefix))
    return [str(time) for time in found["time"]]


HERE = {"subject_id": 7, "hadm_id": 70}
NIGHT = "23:59:59.999999"


def test_each_fact_is_stamped_when_it_became_known(tmp_path):
    micro = {
        **HERE,
        "micro_specimen_id": 1,
        "test_seq": 1,
        "test_itemid": 2,
        "chartdate": "2150-03-02 00:00:00",
        "charttime": "2150-03-02 08:00:00",
        "spec_type_desc": "URINE",
        "test_name": "CULTURE",
        "storedate": "2150-03-06 00:00:00",
        "org_name": "ESCHERICHIA COLI",
        "isolate_num": 1,
        "interpretation": "R",
    }
    events = convert(
        small(
            patients=[{"subject_id": 7, "gender": "F", "anchor_age": 50, "anchor_year": 2150, "dod": "2150-09-09"}],
            diagnoses_icd=[{**HERE, "icd_code": "E119 ", "icd_version": 10}],
            procedures_icd=[{**HERE, "icd_code": "3961", "icd_version": 9, "chartdate": "2150-03-01"}],
            drgcodes=[{**HERE, "drg_type": "APR", "drg_code": "194", "description": "HEART  FAILURE"}],
            hcpcsevents=[{**HERE, "hcpcs_cd": "99218", "chartdate": "2150-03-01"}],
            labevents=[
                {"itemid": 50912, "valueuom": "mg/dL", "value": "1.1", "valuenum": "1.1", **HERE} | {"charttime": at}
                for at in ("2150-03-01 09:00:00", "2150-03-01 10:00:00")
            ]
            + [
                {
                    **HERE,
                    "itemid": 51003,
                    "charttime": "2150-03-02 09:00:00",
                    "value": "<0.01",
                    "valuenum": 0.01,
                }
            ],
            microbiologyevents=[{**micro, "ab_name": ab} for ab in ("GENTAMICIN", "CEFEPIME")],
            omr=[
                {
                    "subject_id": 7,
                    "chartdate": "2150-02-01",
                    "result_name": "Blood Pressure",
                    "result_value": "120/80",
                }
            ],
            inputevents=[
                {
                    **HERE,
                    "itemid": 221906,
                    "starttime": "2150-03-02 01:00:00",
                    "endtime": "2150-03-02 05:00:00",
                    "rate": 0.1,
                    "rateuom": "mcg/kg/min",
                    "amount": 4,
                    "amountuom": "mg",
                }
            ],
        ),
        tmp_path,
    )
    discharge = "2150-03-05 12:00:00"
    assert times(events, "DIAGNOSIS//ICD10CM//E119") == [discharge]
    assert times(events, "PROCEDURE//ICD9PCS//3961") == [discharge]
    assert times(events, "DRG//APR//194") == [discharge]
    assert times(events, "HCPCS//99218") == [f"2150-03-01 {NIGHT}"]
    assert times(events, "MICROBIOLOGY//SPECIMEN//URINE//CULTURE") == ["2150-03-02 08:00:00"]
    assert times(events, "MICROBIOLOGY//ORGANISM//ESCHERICHIA COLI") == [f"2150-03-06 {NIGHT}"]
    assert times(events, "MICROBIOLOGY//SUSCEPTIBILITY//") == [f"2150-03-06 {NIGHT}"] * 2
    assert times(events, "OMR//Blood Pressure//") == [f"2150-02-01 {NIGHT}"] * 2
    assert times(events, "INFUSION_START//221906//mcg/kg/min") == ["2150-03-02 01:00:00"]
    assert times(events, "INFUSION_END//221906//mg") == ["2150-03-02 05:00:00"]
    assert times(events, "MEDS_BIRTH") == ["2100-01-01 00:00:00"]
    assert times(events, "MEDS_DEATH") == [f"2150-09-09 {NIGHT}"]
    assert times(events, "GENDER//F") == ["None"]
    assert times(events, "HOSPITAL_ADMISSION//URGENT//PHYSICIAN REFERRAL") == ["2150-03-01 10:00:00"]
    pressure = events.filter(pl.col("code").str.starts_with("OMR//"))
    assert pressure.select("code", "numeric_value").rows() == [
        ("OMR//Blood Pressure//systolic", 120.0),
        ("OMR//Blood Pressure//diastolic", 80.0),
    ]
    labs = events.filter(pl.col("code").str.starts_with("LAB//"))
    assert labs["visit_id"].to_list() == [None, 70, 70], "before the admission no row knows of it"
    assert labs["code"].to_list() == ["LAB//50912//mg/dL"] * 2 + ["LAB//51003//UNK"]
    assert labs["numeric_value"].cast(pl.Float64).round(3).to_list() == [1.1, 1.1, None]
    assert labs["text_value"].to_list() == [None, None, "<0.01"]
    codes = dict(open_dataset(tmp_path / "meds").codes.select("code", "description").iter_rows())
    assert codes["DRG//APR//194"] == "Diagnosis-related group (APR) 194: HEART  FAILURE"
    assert codes["DIAGNOSIS//ICD10CM//E119"] == "Diagnosis E119 of ICD-10-CM"


@pytest.mark.parametrize(
    ("dod", "deathtime", "expected"),
    [
        ("2150-03-05", "2150-03-05 11:00:00", "2150-03-05 11:00:00"),
        ("2150-03-09", "", f"2150-03-09 {NIGHT}"),
        ("", "2150-03-05 11:00:00", "2150-03-05 11:00:00"),
        # Contradictory: what is known first stands, whatever comes later.
        ("2150-03-04", "2150-03-05 11:00:00", f"2150-03-04 {NIGHT}"),
    ],
)
def test_one_death_at_the_earliest_time_it_is_known(tmp_path, dod, deathtime, expected):
    tables = small(patients=[{"subject_id": 7, "gender": "F", "anchor_age": 50, "anchor_year": 2150, "dod": dod}])
    tables["hosp/admissions"] = tables["hosp/admissions"].with_columns(pl.lit(deathtime or None).alias("deathtime"))
    events = convert(tables, tmp_path)
    assert times(events, "MEDS_DEATH") == [expected]
    assert events["code"][-1] == "MEDS_DEATH" or dod != "2150-03-09"


def test_an_open_admission_has_no_discharge_and_its_billing_rows_are_set_aside(tmp_path):
    tables = small(diagnoses_icd=[{**HERE, "icd_code": "E119", "icd_version": 10}])
    tables["hosp/admissions"] = tables["hosp/admissions"].with_columns(pl.lit(None, pl.String).alias("dischtime"))
    summary = mimic_iv.read(layout.write(tables, tmp_path / "raw"), tmp_path / "meds")
    assert summary["tables"]["diagnoses_icd"]["rows_set_aside"] == {"no discharge time": 1}
    assert "HOSPITAL_DISCHARGE" not in summary["events_by_family"]
    assert "icu/chartevents" in summary["absent_tables"]


def check_deletion(tables: layout.Tables, full: pl.DataFrame, t: str, folder: Path) -> int:
    """Events up to t are the same when nothing after t had been recorded; returns how many there are."""
    known = layout.known_at(tables, t)
    truncated = convert(known, folder)
    until = pl.col("time").is_null() | (pl.col("time") <= pl.lit(t).str.to_datetime())
    # Patients of the future are still listed in patients, with their birth.
    assert set(truncated.filter(~until)["code"]) <= {"MEDS_BIRTH"}, "nothing of the future is left"
    expected, truncated = full.filter(until), truncated.filter(until)
    assert truncated.equals(expected), _first_difference(truncated, expected)
    return len(expected)


def _first_difference(a: pl.DataFrame, b: pl.DataFrame) -> str:
    rows = min(len(a), len(b))
    for i in range(rows):
        if not a[i].equals(b[i]):
            return f"{a.row(i)} != {b.row(i)}"
    return f"{len(a)} events, not {len(b)}: {(a if len(a) > rows else b).row(rows)}"


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
def test_deleting_the_future_leaves_the_past_as_it_was(seed, share, tmp_path):
    tables = layout.generate(seed)
    full = convert(tables, tmp_path / "full")
    moments = full["time"].drop_nulls().sort()
    t = str(moments[int(share * len(moments))])
    kept = check_deletion(tables, full, t, tmp_path / "truncated")
    assert 0 < kept < len(full)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_nothing_is_told_in_advance_while_something_is_pending(seed, tmp_path):
    """The moments where it is easiest to know too much: between registration and admission, at a death."""
    tables = layout.generate(seed)
    full = convert(tables, tmp_path / "full")
    admissions, dod = tables["hosp/admissions"], tables["hosp/patients"]["dod"].drop_nulls()
    moments = [*admissions["edregtime"].drop_nulls(), *admissions["deathtime"].drop_nulls()]
    moments += [f"{day} {NIGHT}" for day in dod]
    for number, t in enumerate(moments):
        check_deletion(tables, full, t, tmp_path / str(number))


@pytest.mark.data
@needs_demo
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_deleting_the_future_leaves_the_past_as_it_was_in_the_demo(demo, share, tmp_path):
    full = events_in(demo[0])
    moments = full["time"].drop_nulls().sort()
    check_deletion(layout.load(DEMO), full, str(moments[int(share * len(moments))]), tmp_path)


@pytest.mark.data
@needs_demo
def test_the_demo_is_valid_meds_and_its_counts_are_those_of_the_raw_tables(demo):
    folder, summary = demo
    check_meds(folder)
    check_accounting(summary)
    raw = layout.load(DEMO)
    for table in mimic.TABLES:
        if table.name in summary["tables"]:
            assert summary["tables"][table.name]["rows"] == len(raw[f"{table.folder}/{table.name}"]), table.name

    def rows(name: str, *needed: str) -> int:
        return raw[name].drop_nulls(list(needed)).height

    micro, test = raw["hosp/microbiologyevents"], ["micro_specimen_id", "test_seq", "test_itemid"]
    stored = micro.filter(pl.any_horizontal(pl.col("storetime", "storedate").is_not_null()))
    admissions = raw["hosp/admissions"]
    dead = raw["hosp/patients"].drop_nulls("dod")["subject_id"].to_list()
    dead += admissions.drop_nulls("deathtime")["subject_id"].to_list()
    pressures = raw["hosp/omr"].filter(pl.col("result_value").str.contains("/")).height
    expected = {
        "GENDER": 100,
        "MEDS_BIRTH": 100,
        "MEDS_DEATH": len(set(dead)),
        "HOSPITAL_ADMISSION": len(admissions),
        "HOSPITAL_DISCHARGE": rows("hosp/admissions", "dischtime"),
        "ED_REGISTRATION": rows("hosp/admissions", "edregtime"),
        "ED_OUT": rows("hosp/admissions", "edouttime"),
        "INSURANCE": rows("hosp/admissions", "insurance"),
        "LANGUAGE": rows("hosp/admissions", "language"),
        "MARITAL_STATUS": rows("hosp/admissions", "marital_status"),
        "RACE": rows("hosp/admissions", "race"),
        "TRANSFER": rows("hosp/transfers", "intime"),
        "SERVICE": rows("hosp/services", "transfertime", "curr_service"),
        "ICU_ADMISSION": rows("icu/icustays", "intime"),
        "ICU_DISCHARGE": rows("icu/icustays", "outtime"),
        "OMR": rows("hosp/omr", "chartdate", "result_value") + pressures,
        "LAB": rows("hosp/labevents", "charttime"),
        "MICROBIOLOGY": micro.select(test).n_unique()
        + stored.filter(pl.col("org_name").is_null()).select(test).n_unique()
        + stored.drop_nulls("org_name").select(*test, "org_name", "isolate_num").n_unique()
        + stored.drop_nulls("ab_name").height,
        "INFUSION_START": rows("icu/inputevents", "starttime"),
        "INFUSION_END": rows("icu/inputevents", "endtime"),
        "OUTPUT": rows("icu/outputevents", "charttime"),
        "ICU_PROCEDURE": rows("icu/procedureevents", "starttime"),
        "MEDICATION": rows("hosp/prescriptions", "starttime", "drug"),
        "ADMINISTRATION": rows("hosp/emar", "charttime", "medication"),
        "DIAGNOSIS": rows("hosp/diagnoses_icd", "icd_code"),
        "PROCEDURE": rows("hosp/procedures_icd", "icd_code"),
    }
    assert summary["events_by_family"] == expected
    assert summary["events"] == sum(expected.values())
    assert summary["subjects"] == {"train": 78, "tuning": 10, "held_out": 12}
    assert summary["absent_tables"] == [
        "icu/chartevents",
        "hosp/hcpcsevents",
        "hosp/drgcodes",
        "hosp/d_hcpcs",
    ]


@pytest.mark.data
@needs_demo
def test_the_demo_keeps_codes_times_and_values(demo):
    events = events_in(demo[0])
    raw = layout.load(DEMO)
    unit = pl.col("valueuom").str.strip_chars().replace("", None).fill_null("UNK")
    labs = raw["hosp/labevents"].select(
        pl.col("subject_id").cast(pl.Int64),
        pl.col("charttime").str.to_datetime(time_unit="us").alias("time"),
        ("LAB//" + pl.col("itemid") + "//" + unit).alias("code"),
        pl.col("valuenum").cast(pl.Float32).alias("numeric_value"),
    )
    written = events.filter(pl.col("code").str.starts_with("LAB//")).select(labs.columns)
    order = ["subject_id", "time", "code", "numeric_value"]
    assert written.sort(order).equals(labs.sort(order))
    left = raw["hosp/admissions"].select("hadm_id", "dischtime")
    diagnoses = (
        raw["hosp/diagnoses_icd"]
        .join(left, on="hadm_id")
        .select(
            pl.col("subject_id").cast(pl.Int64),
            pl.col("dischtime").str.to_datetime(time_unit="us").alias("time"),
            ("DIAGNOSIS//ICD" + pl.col("icd_version") + "CM//" + pl.col("icd_code")).alias("code"),
            pl.col("hadm_id").cast(pl.Int64).alias("visit_id"),
        )
    )
    written = events.filter(pl.col("code").str.starts_with("DIAGNOSIS//")).select(diagnoses.columns)
    order = ["subject_id", "time", "code", "visit_id"]
    assert written.sort(order).equals(diagnoses.sort(order))
    described = dict(open_dataset(demo[0]).codes.select("code", "description").iter_rows())
    assert described["LAB//50912//mg/dL"] == "Laboratory test: Creatinine in Blood (mg/dL)"
    assert described["DIAGNOSIS//ICD9CM//25000"].startswith("Diabetes mellitus")


def test_memory_is_bounded_by_a_block_and_a_bucket_not_by_a_table(tmp_path, monkeypatch):
    """Counts the rows that are ever held together, for a table and for one eight times as long."""
    held: dict[str, int] = {}

    def counting(name: str, function: Callable, argument: int) -> Callable:
        def counted(*args, **kwargs):
            held[name] = max(held.get(name, 0), len(args[argument]))
            return function(*args, **kwargs)

        return counted

    monkeypatch.setattr(conversion, "BUCKET_BYTES", 100_000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 50_000, "on_bytes": None})
    monkeypatch.setattr(conversion, "events_of", counting("block", conversion.events_of, 0))
    monkeypatch.setattr(conversion, "in_order", counting("bucket", conversion.in_order, 0))
    most = {}
    for times_longer in (1, 8):
        subjects = range(1, 400 * times_longer)
        tables = small(
            patients=[{"subject_id": s, "gender": "F", "anchor_age": 50, "anchor_year": 2150} for s in subjects],
            labevents=[
                {
                    "subject_id": s,
                    "itemid": 50912,
                    "charttime": f"2150-03-02 09:{m:02d}:00",
                    "value": m,
                    "valuenum": m,
                }
                for s in subjects
                for m in range(25)
            ],
        )
        held.clear()
        mimic_iv.read(layout.write(tables, tmp_path / f"raw{times_longer}"), tmp_path / f"meds{times_longer}")
        most[times_longer] = dict(held)
    assert most[1]["block"] < 3_500, "patients and labs come in pieces"
    assert most[8]["block"] <= max(1.1 * most[1]["block"], len(subjects)), "only patients are held whole"
    assert most[8]["bucket"] < 1.5 * most[1]["bucket"]


def test_the_reader_does_not_import_jax():
    program = "import sys, ehrjax.ingest.mimic_iv, ehrjax.ingest.download; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
