"""MIMIC-III's tables (1.4 and its demo): which columns are read, which codes they give, and when each became known.

Source: the MIMIC-III documentation, https://mimic.mit.edu/docs/iii/tables/. The codes are those of the MIMIC-IV reader
wherever both have the same thing, so that a recipe or a task for one serves the other.
"""

from __future__ import annotations

import polars as pl

from ehrjax.ingest import roles
from ehrjax.ingest.meds import BIRTH, DEATH
from ehrjax.ingest.mimic_common import (
    ADMISSION,
    AT_DISCHARGE,
    BILLED,
    BILLED_WHY,
    BILLING,
    DEATH_TIME,
    DISCHARGE,
    LAST,
    LEAVING_ICU,
    NO_SUBJECT,
    STATIC,
    aside,
    lacking,
    measured,
)
from ehrjax.ingest.raw_tables import Event, Table, code, columns_of, not_before, or_unknown, words

# Added to the patients: dob, or what de-identification has left of it.
BIRTHDAY = "birthday"

PATIENTS = Table(
    "patients",
    "",
    columns_of(ids="subject_id", times="dob", dates="dod", texts="gender"),
    (
        Event(code("GENDER", words("gender")), None),
        Event(pl.lit(BIRTH), pl.col(BIRTHDAY)),
        Event(pl.lit(DEATH), pl.col(DEATH_TIME), rank=LAST),
    ),
    STATIC,
    "gender is static; birth at dob, and 90 years before their first admission for those older than 89, whose dob was "
    "moved by 300 years; death is the earlier of admissions.deathtime and the end of the day dod",
    (NO_SUBJECT,),
    required=True,
)

ADMISSIONS = Table(
    "admissions",
    "",
    columns_of(
        ids="subject_id hadm_id",
        times="admittime dischtime deathtime",
        texts="admission_type admission_location discharge_location insurance language religion marital_status "
        "ethnicity",
    ),
    (
        # The emergency visit stands in this table only because it led to an admission.
        Event(pl.lit("ED_REGISTRATION"), not_before("edregtime", "admittime")),
        Event(
            code("HOSPITAL_ADMISSION", or_unknown("admission_type"), or_unknown("admission_location")),
            pl.col("admittime"),
        ),
        Event(code("INSURANCE", words("insurance")), pl.col("admittime")),
        Event(code("LANGUAGE", words("language")), pl.col("admittime")),
        Event(code("RELIGION", words("religion")), pl.col("admittime")),
        Event(code("MARITAL_STATUS", words("marital_status")), pl.col("admittime")),
        Event(code("RACE", words("ethnicity")), pl.col("admittime")),
        Event(pl.lit("ED_OUT"), not_before("edouttime", "admittime")),
        Event(code("HOSPITAL_DISCHARGE", or_unknown("discharge_location")), pl.col(DISCHARGE), rank=AT_DISCHARGE),
    ),
    ADMISSION,
    "the admission and who is admitted at admittime; discharge and where to at dischtime; the emergency visit that led "
    "to it no earlier than admittime; the free text diagnosis and hospital_expire_flag are not read",
    aside(lacking("hadm_id", "hadm_id"), lacking("admission time", "admittime")),
    required=True,
    optional=columns_of(times="edregtime edouttime"),
)

TRANSFERS = Table(
    "transfers",
    "",
    columns_of(ids="subject_id hadm_id", times="intime", texts="eventtype curr_careunit"),
    (Event(code("TRANSFER", or_unknown("eventtype"), or_unknown("curr_careunit")), pl.col("intime")),),
    2,
    "at intime; outtime is told by the next transfer",
    aside(lacking("time", "intime")),
)

ICUSTAYS = Table(
    "icustays",
    "",
    columns_of(ids="subject_id hadm_id", times="intime outtime", texts="first_careunit last_careunit"),
    (
        Event(code("ICU_ADMISSION", or_unknown("first_careunit")), pl.col("intime")),
        Event(code("ICU_DISCHARGE", or_unknown("last_careunit")), not_before("outtime", "intime"), rank=LEAVING_ICU),
    ),
    3,
    "the first unit at intime, the last one only at outtime; los is not read",
    aside(lacking("time", "intime")),
)

SERVICES = Table(
    "services",
    "",
    columns_of(ids="subject_id hadm_id", times="transfertime", texts="curr_service"),
    (Event(code("SERVICE", words("curr_service")), pl.col("transfertime")),),
    4,
    "at transfertime",
    aside(lacking("time", "transfertime"), lacking("service", "curr_service")),
)


def _charted(name: str, family: str, rank: int, why: str) -> Table:
    numeric, text = measured("value", "valuenum")
    return Table(
        name,
        "",
        columns_of(ids="subject_id hadm_id", times="charttime", numbers="valuenum", texts="itemid value valueuom"),
        (Event(code(family, words("itemid"), or_unknown("valueuom")), pl.col("charttime"), numeric, text),),
        rank,
        why,
        aside(lacking("time", "charttime"), lacking("itemid", "itemid")),
    )


LABEVENTS = _charted("labevents", "LAB", 20, "at charttime, when the specimen was taken; flag is not read")
CHARTEVENTS = _charted(
    "chartevents", "CHART", 22, "at charttime; whether it proved an error was told later and is not read"
)

_SAMPLED = pl.coalesce("charttime", "chartdate")
_SPECIMEN = pl.concat_str(
    [pl.col("hadm_id").cast(pl.String), _SAMPLED.cast(pl.String), pl.col("spec_type_desc")],
    separator="|",
    ignore_nulls=True,
)
_ISOLATE = pl.concat_str([_SPECIMEN, pl.col("org_name"), pl.col("isolate_num")], separator="|", ignore_nulls=True)
_REPORTED = pl.when(pl.col(DISCHARGE).is_not_null()).then(pl.max_horizontal(DISCHARGE, _SAMPLED))
MICROBIOLOGYEVENTS = Table(
    "microbiologyevents",
    "",
    columns_of(
        ids="subject_id hadm_id",
        times="charttime",
        dates="chartdate",
        texts="spec_type_desc org_name isolate_num ab_name interpretation",
    ),
    (
        Event(
            code("MICROBIOLOGY", pl.lit("SPECIMEN"), or_unknown("spec_type_desc"), pl.lit("UNK")),
            _SAMPLED,
            once=pl.concat_str(pl.lit("specimen|"), _SPECIMEN),
        ),
        Event(
            code("MICROBIOLOGY", pl.lit("ORGANISM"), words("org_name")),
            _REPORTED,
            once=pl.concat_str(pl.lit("organism|"), _ISOLATE),
            rank=BILLING,
        ),
        Event(
            code("MICROBIOLOGY", pl.lit("SUSCEPTIBILITY"), words("ab_name"), or_unknown("interpretation")),
            _REPORTED,
            rank=BILLING,
        ),
    ),
    21,
    "the specimen at charttime (end of chartdate where there is none); when a culture was reported is not told, so "
    "organism and susceptibility only at the discharge of its hadm_id",
    aside(("no time", _SAMPLED.is_null())),
    repeats="repeats its specimen without a new result",
)

INPUTEVENTS_MV = Table(
    "inputevents_mv",
    "",
    columns_of(
        ids="subject_id hadm_id", times="starttime endtime", numbers="amount rate", texts="itemid amountuom rateuom"
    ),
    (
        Event(code("INFUSION_START", words("itemid"), or_unknown("rateuom")), pl.col("starttime"), pl.col("rate")),
        Event(
            code("INFUSION_END", words("itemid"), or_unknown("amountuom")),
            not_before("endtime", "starttime"),
            pl.col("amount"),
        ),
    ),
    30,
    "the rate at starttime, the amount given only at endtime; whether it was rewritten was told later and is not read",
    aside(lacking("time", "starttime"), lacking("itemid", "itemid")),
)

INPUTEVENTS_CV = Table(
    "inputevents_cv",
    "",
    columns_of(ids="subject_id hadm_id", times="charttime", numbers="amount rate", texts="itemid amountuom rateuom"),
    (
        Event(
            pl.when(pl.col("rate").is_not_null()).then(code("INFUSION_START", words("itemid"), or_unknown("rateuom"))),
            pl.col("charttime"),
            pl.col("rate"),
        ),
        Event(
            pl.when(pl.col("amount").is_not_null() | pl.col("rate").is_null()).then(
                code("INFUSION_END", words("itemid"), or_unknown("amountuom"))
            ),
            pl.col("charttime"),
            pl.col("amount"),
        ),
    ),
    31,
    "the rate, and the amount given until then, at charttime",
    aside(lacking("time", "charttime"), lacking("itemid", "itemid")),
)

OUTPUTEVENTS = Table(
    "outputevents",
    "",
    columns_of(ids="subject_id hadm_id", times="charttime", numbers="value", texts="itemid valueuom"),
    (Event(code("OUTPUT", words("itemid"), or_unknown("valueuom")), pl.col("charttime"), pl.col("value")),),
    32,
    "at charttime",
    aside(lacking("time", "charttime"), lacking("itemid", "itemid")),
)

PROCEDUREEVENTS_MV = Table(
    "procedureevents_mv",
    "",
    columns_of(ids="subject_id hadm_id", times="starttime", texts="itemid"),
    (Event(code("ICU_PROCEDURE", words("itemid")), pl.col("starttime")),),
    33,
    "at starttime; its value is a duration, which is not known then and is not read",
    aside(lacking("time", "starttime"), lacking("itemid", "itemid")),
)

PRESCRIPTIONS = Table(
    "prescriptions",
    "",
    columns_of(ids="subject_id hadm_id", dates="startdate", texts="drug"),
    (Event(code("MEDICATION", words("drug")), pl.col("startdate")),),
    40,
    "only the date is known: the end of startdate",
    aside(lacking("date", "startdate"), lacking("drug", "drug")),
)


def _billed(name: str, texts: str, event: pl.Expr, why: str, *needed: tuple[str, pl.Expr]) -> Table:
    return Table(
        name,
        "",
        columns_of(ids="subject_id hadm_id", texts=texts),
        (Event(event, pl.col(DISCHARGE)),),
        BILLING,
        why,
        aside(*BILLED, *needed),
    )


_NO_ICD9 = lacking("code", "icd9_code")
DIAGNOSES_ICD = _billed(
    "diagnoses_icd", "icd9_code", code("DIAGNOSIS", pl.lit("ICD9CM"), words("icd9_code")), BILLED_WHY, _NO_ICD9
)
PROCEDURES_ICD = _billed(
    "procedures_icd", "icd9_code", code("PROCEDURE", pl.lit("ICD9PCS"), words("icd9_code")), BILLED_WHY, _NO_ICD9
)
DRGCODES = _billed(
    "drgcodes",
    "drg_type drg_code description",
    code("DRG", or_unknown("drg_type"), words("drg_code")),
    BILLED_WHY,
    lacking("code", "drg_code"),
)
CPTEVENTS = _billed(
    "cptevents",
    "cpt_cd description",
    code("CPT", words("cpt_cd")),
    BILLED_WHY + ", although chartdate may be earlier",
    lacking("code", "cpt_cd"),
)

# In the order of reading; patients and admissions come first because the others are joined to them.
TABLES = (
    PATIENTS,
    ADMISSIONS,
    TRANSFERS,
    ICUSTAYS,
    SERVICES,
    LABEVENTS,
    MICROBIOLOGYEVENTS,
    CHARTEVENTS,
    INPUTEVENTS_MV,
    INPUTEVENTS_CV,
    OUTPUTEVENTS,
    PROCEDUREEVENTS_MV,
    PRESCRIPTIONS,
    DIAGNOSES_ICD,
    PROCEDURES_ICD,
    DRGCODES,
    CPTEVENTS,
)

# Tables whose own columns describe the codes they give.
DESCRIBING = {"drgcodes": "description", "cptevents": "description"}

DICTIONARIES = (
    ("", "d_labitems", ("itemid",), ("label", "fluid")),
    ("", "d_items", ("itemid",), ("label",)),
    ("", "d_icd_diagnoses", ("icd9_code",), ("long_title",)),
    ("", "d_icd_procedures", ("icd9_code",), ("long_title",)),
)

# Part of MIMIC-III, deliberately not read, and why.
NOT_READ = {
    "callout": "planning of what transfers tells",
    "caregivers": "who charted",
    "d_cpt": "ranges of codes that cptevents names itself",
    "datetimeevents": "dates charted as values",
    "noteevents": "free text",
}

ROLES = {**roles.MIMIC_IV, "procedure": [*roles.MIMIC_IV["procedure"], "CPT//"]}
ROLES["discharge_dead"] = ["HOSPITAL_DISCHARGE//DEAD/EXPIRED$", "HOSPITAL_DISCHARGE//DEAD$"]
