"""What the columns of diabetic_data.csv mean (Diabetes 130-US hospitals, UCI 296): codes, and when each became known.

Source: Strack et al., "Impact of HbA1c measurement on hospital readmission rates", BioMed Research International 2014,
table 1, and https://archive.ics.uci.edu/dataset/296. A row is one stay in hospital. Who is admitted, how, and how often
they came in the year before is known at admission; everything else is a summary of the stay, known at its end.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from ehrjax.core.codes import SEPARATOR
from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import DEATH
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_tables import UNKNOWN, Event, Table, code, or_unknown, words

ADMITTED, DISCHARGED, SEEN, FIRST = "admitted", "discharged", "seen", "first"

# Discharge dispositions after which nobody comes back: 11 and 19 to 21 are deaths, 13 and 14 hospice.
EXPIRED = ("11", "19", "20", "21")
HOSPICE = ("13", "14")

DRUGS = (
    "metformin repaglinide nateglinide chlorpropamide glimepiride acetohexamide glipizide glyburide tolbutamide "
    "pioglitazone rosiglitazone acarbose miglitol troglitazone tolazamide examide citoglipton insulin "
    "glyburide-metformin glipizide-metformin glimepiride-pioglitazone metformin-rosiglitazone metformin-pioglitazone"
).split()
BEFORE = ("number_outpatient", "number_emergency", "number_inpatient")
DURING = ("num_lab_procedures", "num_procedures", "num_medications", "number_diagnoses")
DIAGNOSES = ("diag_1", "diag_2", "diag_3")
TESTS = {"max_glu_serum": "glucose", "A1Cresult": "A1C"}
IDS = {
    "admission_type_id": "admission type",
    "admission_source_id": "admission source",
    "discharge_disposition_id": "discharge disposition",
}
TEXTS = (
    *("race", "gender", "age", "weight", "payer_code", "medical_specialty"),
    *(*IDS, *DIAGNOSES, *TESTS, *DRUGS, "change", "diabetesMed", "readmitted"),
)
COLUMNS = {
    "encounter_id": Kind.ID,
    "patient_nbr": Kind.ID,
    "time_in_hospital": Kind.ID,
    **dict.fromkeys((*BEFORE, *DURING), Kind.NUMBER),
    **dict.fromkeys(TEXTS, Kind.TEXT),
}

MISSING = ("?", "Unknown/Invalid")

NO_PATIENT = ("no patient_nbr", pl.col("patient_nbr").is_null())
NO_ENCOUNTER = ("no encounter_id", pl.col("encounter_id").is_null())
REPEATED = ("encounter_id stands in an earlier row", ~pl.col(SEEN))
# A stay must end before the next pseudo-admission; the published ones last 1 to 14 days.
LONGEST_STAY = 99
BAD_STAY = ("time_in_hospital is not 0 to 99", ~pl.col("time_in_hospital").is_between(0, LONGEST_STAY).fill_null(False))

_ADMISSION, _RESULTS, _DISCHARGE, _BILLING, _DEATH = 1, 60, 61, 70, 99


def icd9(column: str) -> pl.Expr:
    """An ICD-9-CM code without its point; the file lost leading zeros (8 for 008)."""
    parts = pl.col(column).str.split_exact(".", 1)
    whole, rest = parts.struct.field("field_0"), parts.struct.field("field_1").fill_null("")
    return pl.concat_str(whole.str.zfill(3), rest)


def _if(column: str, *values: str) -> pl.Expr:
    return pl.when(pl.col(column).is_in(values))


def _at_admission(event: pl.Expr, numeric: pl.Expr | None = None) -> Event:
    return Event(event, pl.col(ADMITTED), numeric)


def _at_discharge(event: pl.Expr, numeric: pl.Expr | None = None, rank: int = _RESULTS) -> Event:
    return Event(event, pl.col(DISCHARGED), numeric, rank=rank)


DIABETIC_DATA = Table(
    "diabetic_data",
    "",
    COLUMNS,
    (
        Event(
            pl.when(pl.col(FIRST) & (pl.col("gender") != "Unknown/Invalid")).then(code("GENDER", words("gender"))), None
        ),
        _at_admission(
            code("HOSPITAL_ADMISSION", or_unknown("admission_type_id"), or_unknown("admission_source_id")),
        ),
        _at_admission(code("RACE", words("race"))),
        _at_admission(code("AGE", words("age"), pl.lit("years"))),
        _at_admission(code("WEIGHT", words("weight"), pl.lit("lb"))),
        _at_admission(code("INSURANCE", words("payer_code"))),
        _at_admission(code("SPECIALTY", words("medical_specialty"))),
        *(_at_admission(pl.when(pl.col(c).is_not_null()).then(code("PRIOR", pl.lit(c))), pl.col(c)) for c in BEFORE),
        *(_at_discharge(pl.when(pl.col(c).is_not_null()).then(code("COUNT", pl.lit(c))), pl.col(c)) for c in DURING),
        *(
            _at_discharge(pl.when(pl.col(c) != "None").then(code("LAB_CLASS", pl.lit(name), words(c))))
            for c, name in TESTS.items()
        ),
        *(_at_discharge(pl.when(pl.col(c) != "No").then(code("MEDICATION", pl.lit(c), words(c)))) for c in DRUGS),
        _at_discharge(_if("change", "Ch").then(pl.lit("MEDICATION_CHANGE"))),
        _at_discharge(_if("diabetesMed", "Yes").then(pl.lit("DIABETES_MEDICATION"))),
        _at_discharge(
            code("LENGTH_OF_STAY", pl.lit("days")), pl.col("time_in_hospital").cast(pl.Float64), rank=_DISCHARGE
        ),
        _at_discharge(code("HOSPITAL_DISCHARGE", or_unknown("discharge_disposition_id")), rank=_DISCHARGE),
        *(_at_discharge(code("DIAGNOSIS", pl.lit("ICD9CM"), icd9(c)), rank=_BILLING) for c in DIAGNOSES),
        _at_discharge(_if("discharge_disposition_id", *EXPIRED).then(pl.lit(DEATH)), rank=_DEATH),
    ),
    _ADMISSION,
    "who is admitted and the visits of the year before at admission; counts, tests, drugs, diagnoses and the "
    "disposition summarise the stay, so at its end; readmitted tells the future and is no event",
    (NO_PATIENT, NO_ENCOUNTER, REPEATED, BAD_STAY),
    required=True,
)

ROLES = {
    "admission": ["HOSPITAL_ADMISSION(//|$)"],
    "discharge": ["HOSPITAL_DISCHARGE(//|$)"],
    "discharge_dead": [f"HOSPITAL_DISCHARGE//({'|'.join(EXPIRED)})$"],
    "diagnosis": ["DIAGNOSIS//"],
    "medication": ["MEDICATION//"],
    "lab": ["LAB_CLASS//"],
    "female": ["GENDER//Female$"],
    "male": ["GENDER//Male$"],
}


def read_ids(path: Path | None) -> dict[str, dict[str, str]]:
    """IDs_mapping.csv: three tables one below another, each with a header of its own.

    Returns:
      The id column's name -> id -> description; empty without a file.

    Raises:
      InputError: the file is not UTF-8 text or holds none of the three tables.
    """
    if path is None:
        return {}
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not CSV in UTF-8; copy it again or remove it.") from error
    found: dict[str, dict[str, str]] = {}
    here: dict[str, str] = {}
    for row in rows:
        if len(row) == 2 and row[0].strip() in IDS and row[1].strip() == "description":
            here = found.setdefault(row[0].strip(), {})
        elif len(row) == 2 and row[0].strip() and row[1].strip() not in ("", "NULL"):
            here[row[0].strip()] = " ".join(row[1].split()).removesuffix(" .")
    if not found:
        raise InputError(f"{path} holds none of the tables {', '.join(IDS)}; copy it again or remove it.")
    return found


def describe(codes: Iterable[str], ids: dict[str, dict[str, str]]) -> dict[str, str]:
    """A description for every code."""
    return {name: _sentence(name, ids) for name in codes}


def _sentence(name: str, ids: dict[str, dict[str, str]]) -> str:
    family, *rest = name.split(SEPARATOR)

    def called(column: str, number: str) -> str:
        number = "unknown" if number == UNKNOWN else number
        return ids.get(column, {}).get(number, f"{IDS[column]} {number}")

    if family == "HOSPITAL_ADMISSION":
        return (
            f"Admitted to hospital: {called('admission_type_id', rest[0])}, "
            f"from {called('admission_source_id', rest[1])}"
        )
    if family == "HOSPITAL_DISCHARGE":
        return f"End of the stay in hospital: {called('discharge_disposition_id', rest[0])}"
    return _SENTENCES[family].format(*rest)


_SENTENCES = {
    "GENDER": "Gender: {0}",
    "RACE": "Race: {0}",
    "AGE": "Age at admission in years: {0}",
    "WEIGHT": "Weight at admission in pounds: {0}",
    "INSURANCE": "Payer: {0}",
    "SPECIALTY": "Specialty of the admitting physician: {0}",
    "PRIOR": "Visits in the year before the admission: {0}",
    "COUNT": "Count over the stay: {0}",
    "LAB_CLASS": "Result class of {0} in the stay: {1}",
    "MEDICATION": "Diabetes drug {0} in the stay, dose: {1}",
    "MEDICATION_CHANGE": "The diabetes medication was changed in the stay",
    "DIABETES_MEDICATION": "A diabetes medication was prescribed in the stay",
    "LENGTH_OF_STAY": "Length of the stay in days",
    "DIAGNOSIS": "Diagnosis {1} of ICD-9-CM",
    DEATH: "Death",
}
