"""A random but seeded hospital in MIMIC-IV's table layout, and what of such a hospital is known at a time t.

The rows mean nothing clinically; they are there to cover every table, and the oddities of the real ones: ties
in time, labs filed under an admission that had not begun, contradictory times, bounds as values, missing
fields.
"""

from __future__ import annotations

import datetime
import gzip
import random
from pathlib import Path

import polars as pl

Tables = dict[str, pl.DataFrame]

LAYOUT = {
    "hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions": (
        "subject_id hadm_id admittime dischtime deathtime admission_type admit_provider_id "
        "admission_location discharge_location insurance language marital_status race edregtime "
        "edouttime hospital_expire_flag"
    ),
    "hosp/transfers": "subject_id hadm_id transfer_id eventtype careunit intime outtime",
    "hosp/services": "subject_id hadm_id transfertime prev_service curr_service",
    "hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "hosp/procedures_icd": "subject_id hadm_id seq_num chartdate icd_code icd_version",
    "hosp/drgcodes": "subject_id hadm_id drg_type drg_code description drg_severity drg_mortality",
    "hosp/hcpcsevents": "subject_id hadm_id chartdate hcpcs_cd seq_num short_description",
    "hosp/labevents": (
        "labevent_id subject_id hadm_id specimen_id itemid order_provider_id charttime storetime "
        "value valuenum valueuom ref_range_lower ref_range_upper flag priority comments"
    ),
    "hosp/microbiologyevents": (
        "microevent_id subject_id hadm_id micro_specimen_id order_provider_id chartdate charttime "
        "spec_itemid spec_type_desc test_seq storedate storetime test_itemid test_name org_itemid "
        "org_name isolate_num quantity ab_itemid ab_name dilution_text dilution_comparison "
        "dilution_value interpretation comments"
    ),
    "hosp/prescriptions": (
        "subject_id hadm_id pharmacy_id poe_id poe_seq order_provider_id starttime stoptime "
        "drug_type drug formulary_drug_cd gsn ndc prod_strength form_rx dose_val_rx dose_unit_rx "
        "form_val_disp form_unit_disp doses_per_24_hrs route"
    ),
    "hosp/emar": (
        "subject_id hadm_id emar_id emar_seq poe_id pharmacy_id enter_provider_id charttime "
        "medication event_txt scheduletime storetime"
    ),
    "hosp/omr": "subject_id chartdate seq_num result_name result_value",
    "icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "icu/chartevents": (
        "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valuenum valueuom warning"
    ),
    "icu/inputevents": (
        "subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid amount "
        "amountuom rate rateuom orderid linkorderid ordercategoryname secondaryordercategoryname "
        "ordercomponenttypedescription ordercategorydescription patientweight totalamount "
        "totalamountuom isopenbag continueinnextdept statusdescription originalamount originalrate"
    ),
    "icu/outputevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value valueuom",
    "icu/procedureevents": (
        "subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid value valueuom "
        "location locationcategory orderid linkorderid ordercategoryname ordercategorydescription "
        "patientweight isopenbag continueinnextdept statusdescription ORIGINALAMOUNT ORIGINALRATE"
    ),
    "hosp/d_labitems": "itemid label fluid category",
    "hosp/d_icd_diagnoses": "icd_code icd_version long_title",
    "hosp/d_icd_procedures": "icd_code icd_version long_title",
    "hosp/d_hcpcs": "code category long_description short_description",
    "icu/d_items": ("itemid label abbreviation linksto category unitname param_type lownormalvalue highnormalvalue"),
    "hosp/poe": "poe_id poe_seq subject_id hadm_id ordertime",
}


def generate(seed: int, patients: int = 12, rows: int = 12) -> Tables:
    """Tables of text columns for `patients` subjects; `rows` bounds the rows an admission gets in each
    table."""
    draw = random.Random(seed)
    made: dict[str, list[dict[str, object]]] = {name: [] for name in LAYOUT}

    def hour(base: datetime.datetime, low: int, high: int) -> str:
        # Whole hours, so that many rows share a time.
        return str(base + datetime.timedelta(hours=draw.randint(low, high)))

    def maybe(value: object, p: float = 0.85) -> object:
        return value if draw.random() < p else ""

    def value() -> dict[str, object]:
        x = round(draw.uniform(0, 200), 1)
        return draw.choice(
            [
                {"value": x, "valuenum": x, "valueuom": "mg/dL"},
                {"value": "___", "valuenum": x, "valueuom": "mg/dL"},
                {"value": f"<{x}", "valuenum": maybe(x, 0.5), "valueuom": "mg/dL"},
                {"value": "NEG", "valueuom": ""},
                {"value": "", "valueuom": maybe("mg/dL")},
            ]
        )

    for number in range(patients):
        subject = 10_000_000 + number * 37
        start = datetime.datetime(2150 + draw.randint(0, 3), draw.randint(1, 12), draw.randint(1, 28), 7)
        death = None
        for stay in range(draw.randint(1, 4)):
            hadm = 20_000_000 + number * 10 + stay
            who = {"subject_id": subject, "hadm_id": hadm}
            length = draw.randint(-1, 240) if draw.random() < 0.9 else -5
            leaves = start + datetime.timedelta(hours=length)
            is_open = draw.random() < 0.1
            dies = draw.random() < 0.25
            made["hosp/admissions"].append(
                {
                    **who,
                    "admittime": start,
                    "dischtime": "" if is_open else leaves,
                    "deathtime": hour(leaves, -2, 2) if dies else "",
                    "admission_type": draw.choice(["URGENT", "EW EMER.", "ELECTIVE"]),
                    "admission_location": maybe("EMERGENCY ROOM"),
                    "discharge_location": "DIED" if dies else maybe("HOME"),
                    "insurance": maybe("Medicare"),
                    "language": "ENGLISH",
                    "marital_status": maybe("SINGLE"),
                    "race": draw.choice(["WHITE", "ASIAN - CHINESE"]),
                    "edregtime": hour(start, -6, -1) if stay % 2 else "",
                    "edouttime": hour(start, -1, 4) if stay % 2 else "",
                    "hospital_expire_flag": int(dies),
                }
            )
            if dies:
                death = leaves
            span = (-8, max(length, 1) + 30)
            in_row = lambda p=0.7: {"subject_id": subject, "hadm_id": maybe(hadm, p)}  # noqa: B023, E731
            for _ in range(draw.randint(1, rows)):
                at, later = hour(start, *span), hour(start, *span)
                made["hosp/transfers"].append(
                    {
                        **in_row(),
                        "eventtype": "transfer",
                        "careunit": maybe("Medicine"),
                        "intime": at,
                        "outtime": later,
                    }
                )
                made["hosp/services"].append({**in_row(1), "transfertime": at, "curr_service": maybe("MED", 0.95)})
                made["hosp/labevents"].append(
                    {
                        **in_row(),
                        "itemid": draw.randint(50800, 50810),
                        "charttime": maybe(at, 0.98),
                        **value(),
                    }
                )
                made["icu/chartevents"].append(
                    {
                        **in_row(1),
                        "itemid": draw.randint(220000, 220010),
                        "charttime": at,
                        "storetime": later,
                        **value(),
                    }
                )
                made["icu/inputevents"].append(
                    {
                        **in_row(1),
                        "starttime": at,
                        "endtime": maybe(later, 0.9),
                        "itemid": draw.randint(221900, 221910),
                        "amount": draw.random(),
                        "amountuom": "mg",
                        "rate": maybe(draw.random(), 0.5),
                        "rateuom": "mcg/kg/min",
                    }
                )
                made["icu/outputevents"].append(
                    {**in_row(1), "charttime": at, "itemid": 226559, "value": maybe(60), "valueuom": "ml"}
                )
                made["icu/procedureevents"].append(
                    {
                        **in_row(1),
                        "starttime": at,
                        "endtime": later,
                        "itemid": 225792,
                        "value": 30,
                        "valueuom": "min",
                    }
                )
                made["icu/icustays"].append(
                    {
                        **in_row(1),
                        "first_careunit": "MICU",
                        "last_careunit": draw.choice(["MICU", "Neuro Stepdown"]),
                        "intime": at,
                        "outtime": maybe(later),
                        "los": 1.5,
                    }
                )
                made["hosp/prescriptions"].append(
                    {
                        **in_row(),
                        "starttime": maybe(at, 0.95),
                        "stoptime": later,
                        "drug": draw.choice(["Aspirin", "Insulin  -  Sliding Scale", "0.9% Sodium Chloride", ""]),
                    }
                )
                made["hosp/emar"].append(
                    {
                        **in_row(),
                        "charttime": at,
                        "medication": maybe("Heparin"),
                        "event_txt": maybe("Administered"),
                    }
                )
                made["hosp/omr"].append(
                    {
                        "subject_id": subject,
                        "chartdate": at[:10],
                        "result_name": "Blood Pressure",
                        "result_value": draw.choice(["120/80", "not taken"]),
                    }
                )
                made["hosp/omr"].append(
                    {
                        "subject_id": subject,
                        "chartdate": maybe(at[:10]),
                        "result_name": "Weight (Lbs)",
                        "result_value": maybe(127.5),
                    }
                )
                made["hosp/hcpcsevents"].append(
                    {
                        **in_row(1),
                        "chartdate": at[:10],
                        "hcpcs_cd": "99218",
                        "short_description": "Observation care",
                    }
                )
            for seq in range(draw.randint(0, rows)):
                coded = {**in_row(0.95), "seq_num": seq}
                made["hosp/diagnoses_icd"].append(
                    {**coded, "icd_code": draw.choice(["25000", "4019"]), "icd_version": 9}
                )
                made["hosp/diagnoses_icd"].append({**coded, "icd_code": "E119", "icd_version": maybe(10, 0.95)})
                made["hosp/procedures_icd"].append(
                    {**coded, "chartdate": hour(start, *span)[:10], "icd_code": "02HV33Z", "icd_version": 10}
                )
                made["hosp/drgcodes"].append(
                    {
                        **coded,
                        "drg_type": "HCFA",
                        "drg_code": draw.randint(1, 9),
                        "description": "HEART FAILURE",
                    }
                )
            _microbiology(made, draw, in_row, start, span, hour)
            start = leaves + datetime.timedelta(hours=draw.randint(3, 3000))
        dod = ""
        if death is not None:
            dod = str(death + datetime.timedelta(days=draw.choice([0, 0, -1, 1])))[:10]
        elif draw.random() < 0.3:
            dod = str(start + datetime.timedelta(days=40))[:10]
        made["hosp/patients"].append(
            {
                "subject_id": subject,
                "gender": "FM"[number % 2],
                "anchor_age": 52,
                "anchor_year": 2150,
                "dod": dod,
            }
        )
    # A row of somebody who is not in patients.
    made["hosp/labevents"].append(
        {"subject_id": 99, "itemid": 50800, "charttime": "2150-01-01 00:00:00", "value": 1, "valuenum": 1}
    )
    made["hosp/d_labitems"] = [{"itemid": 50800 + i, "label": f"Lab {i}", "fluid": "Blood"} for i in range(10)]
    made["icu/d_items"] = [{"itemid": i, "label": f"Item {i}"} for i in (*range(220000, 220011), 226559)]
    made["hosp/d_icd_diagnoses"] = [
        {"icd_code": "25000", "icd_version": 9, "long_title": "Diabetes mellitus"},
        {"icd_code": "E119", "icd_version": 10, "long_title": "Type 2 diabetes mellitus"},
    ]
    made["hosp/d_icd_procedures"] = [{"icd_code": "02HV33Z", "icd_version": 10, "long_title": "Central line"}]
    made["hosp/d_hcpcs"] = [{"code": "99218", "short_description": "Observation"}]
    made["hosp/poe"] = [{"poe_id": "1", "subject_id": 1}]
    tables = {}
    for name, records in made.items():
        draw.shuffle(records)
        columns = LAYOUT[name].split()
        tables[name] = pl.DataFrame(
            {c: [None if (v := r.get(c, "")) == "" else str(v) for r in records] for c in columns},
            schema=dict.fromkeys(columns, pl.String),
        )
    return tables


def _microbiology(made, draw, in_row, start, span, hour) -> None:
    """Tests with no, one or several organisms, each with several antibiotics; some not reported yet."""
    for _ in range(draw.randint(0, 4)):
        at, stored = hour(start, *span), hour(start, span[0], span[1] + 60)
        test = {
            **in_row(),
            "micro_specimen_id": draw.randint(1_000_000, 9_999_999),
            "chartdate": at[:10] + " 00:00:00",
            "charttime": at if draw.random() < 0.8 else "",
            "spec_type_desc": "BLOOD CULTURE",
            "test_seq": 1,
            "test_itemid": 90201,
            "test_name": "Blood Culture, Routine",
            "storedate": stored[:10] + " 00:00:00",
            "storetime": stored if draw.random() < 0.8 else "",
        }
        for isolate in range(draw.randint(0, 2)):
            organism = {
                "org_name": draw.choice(["ESCHERICHIA COLI", "KLEBSIELLA"]),
                "isolate_num": isolate + 1,
            }
            for drug in ("GENTAMICIN", "CEFEPIME", "MEROPENEM")[: draw.randint(1, 3)]:
                made["hosp/microbiologyevents"].append(
                    {**test, **organism, "ab_name": drug, "interpretation": draw.choice(["S", "R", ""])}
                )
        made["hosp/microbiologyevents"].extend([test] * draw.choice([0, 0, 1, 2]))


def write(tables: Tables, folder: Path, *, compress: bool = False) -> Path:
    """Writes the tables as hosp/*.csv and icu/*.csv (or .csv.gz)."""
    for name, frame in tables.items():
        path = folder / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = frame.write_csv().encode()
        if compress:
            path.with_suffix(".csv.gz").write_bytes(gzip.compress(text, 1))
        else:
            path.write_bytes(text)
    return folder


def load(folder: Path) -> Tables:
    """Reads the tables of LAYOUT that a folder of .csv.gz files has, as text."""
    return {
        name: pl.read_csv(folder / f"{name}.csv.gz", infer_schema=False)
        for name in LAYOUT
        if (folder / f"{name}.csv.gz").is_file()
    }


# What a row needs to be known, and what of it becomes known only later: table -> (times of the row, {time:
# columns}).
_ROW_TIMES = {
    "hosp/transfers": ("intime", {"outtime": ["outtime"]}),
    "hosp/services": ("transfertime", {}),
    "hosp/labevents": ("charttime", {}),
    "hosp/prescriptions": ("starttime", {"stoptime": ["stoptime"]}),
    "hosp/emar": ("charttime", {}),
    "hosp/omr": ("chartdate", {}),
    "hosp/hcpcsevents": ("chartdate", {}),
    "icu/icustays": ("intime", {"outtime": ["outtime", "los", "last_careunit"]}),
    "icu/chartevents": ("charttime", {}),
    "icu/inputevents": ("starttime", {"endtime": ["endtime", "amount", "amountuom", "totalamount"]}),
    "icu/outputevents": ("charttime", {}),
    "icu/procedureevents": ("starttime", {"endtime": ["endtime", "value", "storetime"]}),
    "hosp/admissions": (
        "admittime",
        {
            "dischtime": ["dischtime", "discharge_location", "hospital_expire_flag"],
            "deathtime": ["deathtime"],
            "edregtime": ["edregtime"],
            "edouttime": ["edouttime"],
        },
    ),
}


def _known(*columns: str) -> pl.Expr:
    """The text of the first column that is there; a date (or a date's midnight) counts from the end of its
    day."""
    parts = []
    for column in columns:
        end_of_day = pl.col(column).str.slice(0, 10) + " 23:59:59.999999"
        parts.append(end_of_day if column.endswith("date") or column == "dod" else pl.col(column))
    return pl.coalesce(parts)


def known_at(tables: Tables, t: str) -> Tables:
    """What the same hospital's tables held at time `t` (text, like '2150-07-23 14:00:00')."""
    out = dict(tables)
    out["hosp/patients"] = tables["hosp/patients"].with_columns(pl.when(_known("dod") <= t).then(pl.col("dod")))
    for name, (time, later) in _ROW_TIMES.items():
        if name not in tables:
            continue
        frame = tables[name].filter(_known(time) <= t)
        for column, hidden in later.items():
            frame = frame.with_columns(pl.when(pl.col(column) <= t).then(pl.col(h)).alias(h) for h in hidden)
        out[name] = frame
    left = out["hosp/admissions"].filter(pl.col("dischtime").is_not_null())["hadm_id"].implode()
    for name in ("hosp/diagnoses_icd", "hosp/procedures_icd", "hosp/drgcodes"):
        if name in tables:
            out[name] = tables[name].filter(pl.col("hadm_id").is_in(left))
    micro = tables["hosp/microbiologyevents"].filter(_known("charttime", "chartdate") <= t)
    result = [
        "storedate",
        "storetime",
        "org_itemid",
        "org_name",
        "isolate_num",
        "quantity",
        "ab_itemid",
        "ab_name",
    ]
    result += ["dilution_text", "dilution_comparison", "dilution_value", "interpretation", "comments"]
    pending = (_known("storetime", "storedate") > t).fill_null(True)
    micro = micro.with_columns(pl.when(~pending).then(pl.col(c)).alias(c) for c in result)
    # A pending test is one row: that there will be three antibiotics is not known.
    out["hosp/microbiologyevents"] = micro.filter(
        pl.col("storedate").is_not_null()
        | pl.col("storetime").is_not_null()
        | pl.struct("micro_specimen_id", "test_seq", "test_itemid").is_first_distinct()
    )
    # Nobody can file a row under an admission that has not begun.
    begun = out["hosp/admissions"]["hadm_id"].implode()
    for name in _ROW_TIMES.keys() | {"hosp/microbiologyevents"}:
        if name in out and "hadm_id" in out[name].columns and name != "hosp/admissions":
            out[name] = out[name].with_columns(pl.when(pl.col("hadm_id").is_in(begun)).then(pl.col("hadm_id")))
    return out
