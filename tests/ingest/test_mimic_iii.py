"""The MIMIC-III reader on generated tables in the published layout: events to the row, nothing known too early."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from ehrjax.ingest import conversion, mimic_iii, raw_csv, roles
from ehrjax.ingest.meds import open_dataset
from tests.ingest import mimic_iii_layout as layout
from tests.ingest.meds_checks import check_accounting, check_meds, digests, events_in, until

DAY_END = timedelta(days=1) - timedelta(microseconds=1)
Tables = dict[str, pl.DataFrame]


def write(tables: Tables, folder: Path) -> Path:
    """As published: the names of files and columns in capitals."""
    folder.mkdir(parents=True)
    for name, frame in tables.items():
        frame.rename(str.upper).write_csv(folder / f"{name.upper()}.csv")
    return folder


def convert(tables: Tables, folder: Path) -> tuple[pl.DataFrame, dict]:
    summary = mimic_iii.read(write(tables, folder / "raw"), folder / "meds")
    return events_in(folder / "meds"), summary


def at(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def expected(tables: Tables) -> Counter:
    """(subject, time, code, number, text, visit) of every event, told row by row."""
    rows = {name: frame.to_dicts() for name, frame in tables.items()}
    stays = {row["hadm_id"]: row for row in rows["admissions"]}
    found: Counter = Counter()

    def emit(row, time, code, number=None, text=None) -> None:
        stay = stays.get(row.get("hadm_id"))
        visit = int(row["hadm_id"]) if stay and time and at(stay["admittime"]) <= time else None
        number = None if number is None else pl.Series([float(number)], dtype=pl.Float32)[0]
        found[int(row["subject_id"]), time, code, number, text, visit] += 1

    for row in rows["patients"]:
        mine = [a for a in rows["admissions"] if a["subject_id"] == row["subject_id"]]
        emit(row, None, f"GENDER//{row['gender']}")
        born, first = at(row["dob"]), min(at(a["admittime"]) for a in mine)
        emit(row, first.replace(year=first.year - 90) if first.year - born.year > 150 else born, "MEDS_BIRTH")
        deaths = [(at(a["deathtime"]), a["hadm_id"]) for a in mine if a["deathtime"]]
        if row["dod"]:
            deaths.append((at(row["dod"]) + DAY_END, None))
        if deaths:
            time, hadm = min(deaths, key=lambda death: death[0])
            emit({**row, "hadm_id": hadm}, time, "MEDS_DEATH")
    for row in rows["admissions"]:
        start, end = at(row["admittime"]), at(row["dischtime"])
        emit(row, start, f"HOSPITAL_ADMISSION//{row['admission_type']}//{row['admission_location']}")
        emit(row, end, f"HOSPITAL_DISCHARGE//{row['discharge_location']}")
        for column, family in (("insurance", "INSURANCE"), ("language", "LANGUAGE"), ("religion", "RELIGION"),
                               ("marital_status", "MARITAL_STATUS"), ("ethnicity", "RACE")):  # fmt: skip
            if row[column]:
                emit(row, start, f"{family}//{row[column]}")
        for column, code in (("edregtime", "ED_REGISTRATION"), ("edouttime", "ED_OUT")):
            if row[column]:
                emit(row, max(start, at(row[column])), code)
    for row in rows["icustays"]:
        emit(row, at(row["intime"]), f"ICU_ADMISSION//{row['first_careunit']}")
        emit(row, at(row["outtime"]), f"ICU_DISCHARGE//{row['last_careunit']}")
    for row in rows["transfers"]:
        emit(row, at(row["intime"]), f"TRANSFER//{row['eventtype']}//{row['curr_careunit'] or 'UNK'}")
    for row in rows["services"]:
        emit(row, at(row["transfertime"]), f"SERVICE//{row['curr_service']}")
    for name, family in (("labevents", "LAB"), ("chartevents", "CHART")):
        for row in rows[name]:
            bound = row["value"].startswith("<")
            number = None if bound else row["valuenum"]
            code = f"{family}//{row['itemid']}//{row['valueuom'] or 'UNK'}"
            emit(row, at(row["charttime"]), code, number, None if number else row["value"])
    for row in rows["inputevents_mv"]:
        emit(row, at(row["starttime"]), f"INFUSION_START//{row['itemid']}//{row['rateuom']}", row["rate"])
        emit(row, at(row["endtime"]), f"INFUSION_END//{row['itemid']}//{row['amountuom']}", row["amount"])
    for row in rows["inputevents_cv"]:
        if row["rate"]:
            emit(row, at(row["charttime"]), f"INFUSION_START//{row['itemid']}//UNK", row["rate"])
        if row["amount"] or not row["rate"]:
            emit(row, at(row["charttime"]), f"INFUSION_END//{row['itemid']}//{row['amountuom']}", row["amount"])
    for row in rows["outputevents"]:
        emit(row, at(row["charttime"]), f"OUTPUT//{row['itemid']}//{row['valueuom']}", row["value"])
    for row in rows["procedureevents_mv"]:
        emit(row, at(row["starttime"]), f"ICU_PROCEDURE//{row['itemid']}")
    for row in rows["prescriptions"]:
        emit(row, at(row["startdate"]) + DAY_END, f"MEDICATION//{row['drug']}")
    once: set = set()
    for row in rows["microbiologyevents"]:
        time = at(row["charttime"]) or at(row["chartdate"]) + DAY_END
        told = max(time, at(stays[row["hadm_id"]]["dischtime"]))
        specimen = (row["hadm_id"], time, row["spec_type_desc"])
        for key, when, code in (
            (specimen, time, f"MICROBIOLOGY//SPECIMEN//{row['spec_type_desc']}//UNK"),
            ((*specimen, row["org_name"]), told, row["org_name"] and f"MICROBIOLOGY//ORGANISM//{row['org_name']}"),
        ):
            if code and key not in once:
                once.add(key)
                emit(row, when, code)
        if row["ab_name"]:
            emit(row, told, f"MICROBIOLOGY//SUSCEPTIBILITY//{row['ab_name']}//{row['interpretation']}")
    for name, code in (
        ("diagnoses_icd", "DIAGNOSIS//ICD9CM//{icd9_code}"),
        ("procedures_icd", "PROCEDURE//ICD9PCS//{icd9_code}"),
        ("drgcodes", "DRG//{drg_type}//{drg_code}"),
        ("cptevents", "CPT//{cpt_cd}"),
    ):
        for row in rows[name]:
            emit(row, at(stays[row["hadm_id"]]["dischtime"]), code.format(**row))
    return found


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_generated_rows_give_exactly_the_events_that_they_tell(seed, tmp_path):
    tables = layout.generate(seed)
    events, summary = convert(tables, tmp_path)
    check_meds(tmp_path / "meds")
    check_accounting(summary)
    columns = ("subject_id", "time", "code", "numeric_value", "text_value", "visit_id")
    assert Counter(events.select(columns).iter_rows()) == expected(tables)
    assert {name: table["rows"] for name, table in summary["tables"].items()} == {
        name: len(tables[name]) for name in summary["tables"]
    }
    assert summary["absent_tables"] == []


def test_codes_are_described_and_have_roles(tmp_path):
    convert(layout.generate(4), tmp_path)
    dataset = open_dataset(tmp_path / "meds")
    told = dict(dataset.codes.select("code", "description").iter_rows())
    assert told["DIAGNOSIS//ICD9CM//0389"] == "Unspecified septicemia"
    assert told["PROCEDURE//ICD9PCS//966"] == "Enteral infusion"
    assert told["LAB//50931//mg/dL"] == "Laboratory test: Glucose in Blood (mg/dL)"
    assert told["DRG//HCFA//416"].endswith("SEPTICEMIA AGE >17")
    assert told["CPT//99223"] == "Billed service (CPT) 99223: HOSPITAL"
    given = roles.of(dataset)
    dead = roles.matching(
        pl.Series(["HOSPITAL_DISCHARGE//DEAD/EXPIRED", "HOSPITAL_DISCHARGE//HOME"]), given.get("discharge_dead")
    )
    assert dead.to_list() == [True, False]


def known_at(tables: Tables, cut: datetime) -> Tables:
    """What the same tables held at a time."""
    rows = {name: frame.to_dicts() for name, frame in tables.items()}
    out = {name: list(found) for name, found in rows.items()}
    out["admissions"] = []
    for row in rows["admissions"]:
        if at(row["admittime"]) <= cut:
            row = dict(row)
            if at(row["dischtime"]) > cut:
                row.update(dischtime=None, discharge_location=None, deathtime=None)
            for column in ("edregtime", "edouttime"):
                if row[column] and at(row[column]) > cut:
                    row[column] = None
            out["admissions"].append(row)
    here = {row["subject_id"] for row in out["admissions"]}
    ended = {row["hadm_id"] for row in out["admissions"] if row["dischtime"]}
    out["patients"] = [
        {**row, "dod": row["dod"] if row["dod"] and at(row["dod"]) + DAY_END <= cut else None}
        for row in rows["patients"]
        if row["subject_id"] in here
    ]
    for name, column in (("labevents", "charttime"), ("chartevents", "charttime"), ("inputevents_mv", "starttime"),
                         ("inputevents_cv", "charttime"), ("outputevents", "charttime"), ("icustays", "intime"),
                         ("procedureevents_mv", "starttime"), ("transfers", "intime"), ("services", "transfertime"),
                         ("prescriptions", "startdate")):  # fmt: skip
        late = DAY_END if name == "prescriptions" else timedelta()
        out[name] = [dict(row) for row in rows[name] if at(row[column]) + late <= cut]
    for row in out["inputevents_mv"]:
        if at(row["endtime"]) > cut:
            row.update(endtime=None, amount=None)
    for row in out["icustays"]:
        if at(row["outtime"]) > cut:
            row.update(outtime=None, last_careunit=None)
    out["microbiologyevents"] = [
        row if row["hadm_id"] in ended else {**row, "org_name": None, "ab_name": None}
        for row in rows["microbiologyevents"]
        if (at(row["charttime"]) or at(row["chartdate"]) + DAY_END) <= cut
    ]
    for name in ("diagnoses_icd", "procedures_icd", "drgcodes", "cptevents"):
        out[name] = [row for row in rows[name] if row["hadm_id"] in ended]
    return {name: pl.DataFrame(found, schema=tables[name].schema) for name, found in out.items()}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_deleting_what_was_known_later_leaves_the_beginning_as_it_was(seed, tmp_path):
    tables = layout.generate(seed, patients=3)
    events, _ = convert(tables, tmp_path / "all")
    times = events.filter(pl.col("code") != "MEDS_BIRTH")["time"].drop_nulls().sort()
    for place in (0.2, 0.5, 0.8):
        cut = times[int(place * len(times))]
        fewer, _ = convert(known_at(tables, cut), tmp_path / str(place))
        mine = events.filter(pl.col("subject_id").is_in(fewer["subject_id"].unique().implode()))
        assert until(fewer, cut).equals(until(mine, cut))


def test_blocks_and_buckets_do_not_change_the_events(tmp_path, monkeypatch):
    events, _ = convert(layout.generate(5), tmp_path / "one")
    mimic_iii.read(tmp_path / "one" / "raw", tmp_path / "again")
    assert digests(tmp_path / "again") == digests(tmp_path / "one" / "meds")
    monkeypatch.setattr(conversion, "BUCKET_BYTES", 5000)
    monkeypatch.setattr(raw_csv.read_batches, "__kwdefaults__", {"block_bytes": 2000, "on_bytes": None})
    steps = []
    mimic_iii.read(tmp_path / "one" / "raw", tmp_path / "small", progress=lambda *step: steps.append(step))
    assert events_in(tmp_path / "small").equals(events)
    assert steps[-1][1] == steps[-1][2]
