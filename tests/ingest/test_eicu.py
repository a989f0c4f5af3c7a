"""The eICU reader on generated tables in the published layout: events to the row, stays in order, nothing too early."""

from __future__ import annotations

import math
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.data import prepare_tokens
from ehrjax.ingest import conversion, eicu, raw_csv, roles
from ehrjax.ingest.meds import open_dataset
from ehrjax.vocab.recipe import Recipe
from tests.ingest import eicu_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, until

Tables = dict[str, pl.DataFrame]
BEGIN = datetime(2000, 1, 1)


def write(tables: Tables, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name, frame in tables.items():
        frame.write_csv(folder / f"{name}.csv")
    return folder


def convert(tables: Tables, folder: Path) -> tuple[pl.DataFrame, dict]:
    summary = eicu.read(write(tables, folder / "raw"), folder / "meds")
    return events_in(folder / "meds"), summary


def named(events: pl.DataFrame, folder: Path) -> Counter:
    ids = dict(
        pl.read_parquet(folder / "metadata" / "subject_ids.parquet").select("subject_id", "uniquepid").iter_rows()
    )
    columns = ("subject_id", "time", "code", "numeric_value", "text_value", "visit_id")
    return Counter((ids[row[0]], *row[1:]) for row in events.select(columns).iter_rows())


def expected(tables: Tables) -> Counter:
    """(person, time, code, number, text, visit) of every event, told row by row."""
    rows = {name: frame.to_dicts() for name, frame in tables.items()}
    found: Counter = Counter()
    once: set = set()
    units = {}

    def years(row: dict) -> int:
        return 90 if row["age"] == "> 89" else int(row["age"])

    people: dict[str, list[dict]] = {}
    for row in rows["patient"]:
        people.setdefault(row["uniquepid"], []).append(row)
    for person, mine in people.items():
        stays = {}
        for row in sorted(
            mine, key=lambda r: (int(r["hospitaldischargeyear"]), years(r), int(r["patienthealthsystemstayid"]))
        ):
            stays.setdefault(
                int(row["patienthealthsystemstayid"]), (BEGIN + timedelta(days=1000 * len(stays)), years(row))
            )
        first = next(iter(stays.values()))[1]
        for row in mine:
            stay = int(row["patienthealthsystemstayid"])
            admitted = stays[stay][0]
            entered = admitted - timedelta(minutes=min(int(row["hospitaladmitoffset"] or 0), 0))
            left = entered + timedelta(minutes=int(row["unitdischargeoffset"]))
            home = entered + timedelta(minutes=int(row["hospitaldischargeoffset"]))
            units[row["patientunitstayid"]] = (person, stay, admitted, entered, left)

            def emit(time, code, key=None, person=person, stay=stay) -> None:
                if code is None or (key and (person, key) in once):
                    return
                once.add((person, key))
                found[person, time, code, None, None, stay if time and time >= BEGIN else None] += 1

            if admitted == BEGIN:
                emit(None, f"GENDER//{row['gender']}", "gender")
                emit(None, row["ethnicity"] and f"RACE//{row['ethnicity']}", "race")
            if first < 90:
                emit(BEGIN - timedelta(days=math.floor(first * 365.25)), "MEDS_BIRTH", "birth")
            # Of the rows of one stay the first in order of events tells what is told once; here they agree or differ
            # only in what is told per unit.
            emit(entered, f"ICU_ADMISSION//{row['unittype']}")
            emit(entered, row["unitadmitsource"] and f"UNIT_ADMIT_SOURCE//{row['unitadmitsource']}")
            emit(left, f"ICU_DISCHARGE//{row['unitdischargelocation'] or 'UNK'}")
            emit(admitted, f"AGE//{row['age']}//years", ("age", stay))
            if row["hospitaldischargestatus"] == "Expired":
                emit(home, "MEDS_DEATH", "death")
    for name, offset, make in READ:
        for row in rows[name]:
            person, stay, admitted, entered, left = units[row["patientunitstayid"]]
            time = max(entered + timedelta(minutes=int(row[offset])), admitted)
            for at, code, number, text in make(row, time, left):
                if code:
                    number = None if number is None else pl.Series([float(number)], dtype=pl.Float32)[0]
                    key = (person, row["patientunitstayid"], row[offset], "specimen")
                    if "SPECIMEN" in code:
                        if key in once:
                            continue
                        once.add(key)
                    found[person, at, code, number, text, stay] += 1
    return found


def value(text: str | None) -> tuple:
    try:
        return float(text), None
    except (TypeError, ValueError):
        return None, text


def _lab(row, time, left):
    code = f"LAB//potassium//{row['labmeasurenamesystem'] or 'UNK'}"
    bound = (row["labresulttext"] or "").startswith("<")
    number = None if bound else row["labresult"]
    return [(time, code, number, None if number else row["labresulttext"])]


def _micro(row, time, left):
    drug = (
        row["antibiotic"] and f"MICROBIOLOGY//SUSCEPTIBILITY//{row['antibiotic']}//{row['sensitivitylevel'] or 'UNK'}"
    )
    return [
        (time, f"MICROBIOLOGY//SPECIMEN//{row['culturesite']}", None, None),
        (left, row["organism"] and f"MICROBIOLOGY//ORGANISM//{row['organism']}", None, None),
        (left, drug, None, None),
    ]


def _vital(columns):
    return lambda row, time, left: [
        (time, row[c] and f"VITAL//{c}//{unit}", row[c], None) for c, unit in columns.items()
    ]


def _plain(code):
    return lambda row, time, left: [(time, code.format(**row), None, None)]


def _charted(code, column):
    return lambda row, time, left: [(time, code, *value(row[column]))]


def _drug(row, time, left):
    name = row["drugname"] or f"HICL {row['drughiclseqno']}"
    return [(time, f"MEDICATION//{name}", None, None)]


def _diagnosis(row, time, left):
    icd = row["icd9code"] and f"DIAGNOSIS//ICD//{row['icd9code'].split(',')[0]}"
    return [(time, f"DIAGNOSIS//EICU//{row['diagnosisstring']}", None, None), (time, icd, None, None)]


def _volume(row, time, left):
    return [(time, "INTAKE_OUTPUT//Urine//mL", row["cellvaluenumeric"], None)]


READ = (
    ("admissionDx", "admitdxenteredoffset", _plain("ADMISSION_DIAGNOSIS//{admitdxpath}")),
    ("pastHistory", "pasthistoryenteredoffset", _plain("HISTORY//{pasthistorypath}")),
    ("allergy", "allergyenteredoffset", _plain("ALLERGY//{allergyname}")),
    ("lab", "labresultoffset", _lab),
    ("microLab", "culturetakenoffset", _micro),
    ("vitalPeriodic", "observationoffset", _vital({"heartrate": "bpm", "sao2": "%"})),
    ("vitalAperiodic", "observationoffset", _vital({"noninvasivemean": "mmHg"})),
    ("nurseCharting", "nursingchartentryoffset", _charted("CHART//Pain Score//Value", "nursingchartvalue")),
    ("respiratoryCharting", "respchartentryoffset", _charted("RESPIRATORY//FiO2", "respchartvalue")),
    ("intakeOutput", "intakeoutputentryoffset", _volume),
    ("infusiondrug", "infusionoffset", _charted("INFUSION//Propofol", "drugrate")),
    ("medication", "drugstartoffset", _drug),
    ("treatment", "treatmentoffset", _plain("TREATMENT//{treatmentstring}")),
    ("diagnosis", "diagnosisoffset", _diagnosis),
)

# Of several rows of one hospital stay the first in the order of events tells them; they are counted apart.
APART = ("HOSPITAL_ADMISSION", "HOSPITAL_DISCHARGE")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_generated_rows_give_exactly_the_events_that_they_tell(seed, tmp_path):
    tables = layout.generate(seed)
    events, summary = convert(tables, tmp_path)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    family = pl.col("code").str.split("//").list.first()
    assert named(events.filter(~family.is_in(APART)), tmp_path / "meds") == expected(tables)
    stays = tables["patient"].select("uniquepid", "patienthealthsystemstayid").n_unique()
    for name in APART:
        assert (events.select(family)["code"] == name).sum() == stays
    assert {name: table["rows"] for name, table in summary["tables"].items()} == {
        name: len(tables[name]) for name in summary["tables"]
    }


def test_stays_are_in_order_and_times_are_good_for_no_more(tmp_path):
    events, _ = convert(layout.generate(5), tmp_path)
    dataset = open_dataset(tmp_path / "meds")
    assert dataset.metadata["pseudo_dates"]["good_for"] == "order"
    admissions = events.filter(pl.col("code").str.starts_with("HOSPITAL_ADMISSION"))
    gaps = admissions.select(pl.col("time").diff().over("subject_id")).to_series().drop_nulls()
    assert (gaps == timedelta(days=1000)).all()
    with pytest.raises(InputError, match="good for order only"):
        prepare_tokens.prepare(tmp_path / "meds", tmp_path / "tokens", Recipe("x", steps=("time_tokens",)))
    told = roles.of(dataset).present(dataset.codes["code"])
    assert set(told.patterns) >= {"admission", "discharge", "icu_admission", "diagnosis", "medication", "lab", "female"}
    described = dict(dataset.codes.select("code", "description").iter_rows())
    assert described["VITAL//heartrate//bpm"] == "Vital sign: heartrate (bpm)"


@pytest.mark.parametrize("seed", [1, 2])
def test_deleting_later_rows_leaves_earlier_events_as_they_were(seed, tmp_path):
    tables = layout.generate(seed)
    events, _ = convert(tables, tmp_path / "all")
    for minutes in (0, 250, 600):
        later = {
            "unitdischargelocation": "unitdischargeoffset",
            "hospitaldischargelocation": "hospitaldischargeoffset",
            "hospitaldischargestatus": "hospitaldischargeoffset",
        }
        later |= {offset: offset for offset in set(later.values())}
        hidden = (
            pl.when(pl.col(offset).cast(pl.Int64) <= minutes).then(pl.col(column)).alias(column)
            for column, offset in later.items()
        )
        kept = {"patient": tables["patient"].with_columns(hidden)}
        for name, offset, _ in READ:
            kept[name] = tables[name].filter(pl.col(offset).cast(pl.Int64) <= minutes)
        fewer, _ = convert(kept, tmp_path / str(minutes))
        # What is left of each unit stay's own table rows is what was there up to then.
        lab = pl.col("code").str.starts_with("LAB//") | pl.col("code").str.starts_with("ICU_ADMISSION")
        first = fewer.filter(lab)
        assert first.join(events.filter(lab), on=events.columns, how="anti", nulls_equal=True).is_empty()
    # Deleting whole later stays leaves the first ones as they are.
    patients = tables["patient"].with_columns(pl.col("hospitaldischargeyear").cast(pl.Int64))
    kept = dict(tables)
    kept["patient"] = tables["patient"].filter(patients["hospitaldischargeyear"] == 2014)
    units = kept["patient"]["patientunitstayid"].implode()
    for name, _, _ in READ:
        kept[name] = tables[name].filter(pl.col("patientunitstayid").is_in(units))
    fewer, _ = convert(kept, tmp_path / "first")
    for subject, mine in fewer.group_by("subject_id", maintain_order=True):
        full = events.filter(pl.col("subject_id") == subject[0])
        assert mine.equals(until(full, mine["time"].max()))


def test_blocks_and_buckets_do_not_change_the_events(tmp_path, monkeypatch):
    events, _ = convert(layout.generate(6), tmp_path / "one")
    eicu.read(tmp_path / "one" / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "one" / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 3000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 2000, "on_bytes": None})
    steps = []
    eicu.read(tmp_path / "one" / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert steps[-1][1] == steps[-1][2]
