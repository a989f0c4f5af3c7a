"""MIMIC-IV's tables (2.x and 3.x): which columns are read, which codes they give, and when each became known.

Source: the MIMIC-IV documentation, https://mimic.mit.edu/docs/iv/modules/ (hosp and icu), and the schema in
https://github.com/MIT-LCP/mimic-code. A row's event carries the time at which a clinician at the bedside, or
the record itself, could first know it. A time within a row is never taken to be earlier than the row's own.
"""

from __future__ import annotations

import polars as pl

from ehrjax.ingest.meds import BIRTH, DEATH
from ehrjax.ingest.mimic_codes import HOSP, ICU
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

PATIENTS = Table(
    "patients",
    HOSP,
    columns_of(ids="subject_id anchor_age anchor_year", dates="dod", texts="gender"),
    (
        Event(code("GENDER", words("gender")), None),
        # Only the age in one year is published, so the birthday is taken to be 1 January.
        Event(pl.lit(BIRTH), pl.datetime(pl.col("anchor_year") - pl.col("anchor_age"), 1, 1)),
        Event(pl.lit(DEATH), pl.col(DEATH_TIME), rank=LAST),
    ),
    STATIC,
    "gender is static; birth is 1 January of anchor_year - anchor_age; death is the earlier of "
    "admissions.deathtime and the end of the day dod",
    (NO_SUBJECT,),
    required=True,
)

ADMISSIONS = Table(
    "admissions",
    HOSP,
    columns_of(
        ids="subject_id hadm_id",
        times="admittime dischtime deathtime edregtime edouttime",
        texts="admission_type admission_location discharge_location insurance language marital_status race",
    ),
    (
        # An emergency visit stands in this table only because it led to an admission, so before the
        # admission its registration here would tell the future. The visit itself is in transfers, at its
        # true time.
        Event(pl.lit("ED_REGISTRATION"), not_before("edregtime", "admittime")),
        Event(
            code("HOSPITAL_ADMISSION", or_unknown("admission_type"), or_unknown("admission_location")),
            pl.col("admittime"),
        ),
        Event(code("INSURANCE", words("insurance")), pl.col("admittime")),
        Event(code("LANGUAGE", words("language")), pl.col("admittime")),
        Event(code("MARITAL_STATUS", words("marital_status")), pl.col("admittime")),
        Event(code("RACE", words("race")), pl.col("admittime")),
        Event(pl.lit("ED_OUT"), not_before("edouttime", "admittime")),
        Event(code("HOSPITAL_DISCHARGE", or_unknown("discharge_location")), pl.col(DISCHARGE), rank=AT_DISCHARGE),
    ),
    ADMISSION,
    "the admission and who is admitted at admittime; discharge and where to at dischtime; the emergency "
    "visit that led to it no earlier than admittime; hospital_expire_flag is not read",
    aside(lacking("hadm_id", "hadm_id"), lacking("admission time", "admittime")),
    required=True,
)

TRANSFERS = Table(
    "transfers",
    HOSP,
    columns_of(ids="subject_id hadm_id", times="intime", texts="eventtype careunit"),
    (Event(code("TRANSFER", or_unknown("eventtype"), or_unknown("careunit")), pl.col("intime")),),
    2,
    "at intime; outtime is told by the next transfer",
    aside(lacking("time", "intime")),
)

ICUSTAYS = Table(
    "icustays",
    ICU,
    columns_of(ids="subject_id hadm_id", times="intime outtime", texts="first_careunit last_careunit"),
    (
        Event(code("ICU_ADMISSION", or_unknown("first_careunit")), pl.col("intime")),
        Event(
            code("ICU_DISCHARGE", or_unknown("last_careunit")),
            not_before("outtime", "intime"),
            rank=LEAVING_ICU,
        ),
    ),
    3,
    "the first unit at intime, the last one only at outtime; los is not read",
    aside(lacking("time", "intime")),
)

SERVICES = Table(
    "services",
    HOSP,
    columns_of(ids="subject_id hadm_id", times="transfertime", texts="curr_service"),
    (Event(code("SERVICE", words("curr_service")), pl.col("transfertime")),),
    4,
    "at transfertime",
    aside(lacking("time", "transfertime"), lacking("service", "curr_service")),
)

_PRESSURE = r"^(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)$"
_IS_PRESSURE = pl.col("result_value").str.contains(_PRESSURE)


def _pressure(name: str, group: int) -> Event:
    value = pl.col("result_value").str.extract(_PRESSURE, group).cast(pl.Float64)
    return Event(
        pl.when(_IS_PRESSURE).then(code("OMR", words("result_name"), pl.lit(name))),
        pl.col("chartdate"),
        value,
    )


_OMR_NUMERIC, _OMR_TEXT = measured("result_value")
OMR = Table(
    "omr",
    HOSP,
    columns_of(ids="subject_id", dates="chartdate", texts="result_name result_value"),
    (
        Event(
            pl.when(~_IS_PRESSURE).then(code("OMR", words("result_name"))),
            pl.col("chartdate"),
            _OMR_NUMERIC,
            _OMR_TEXT,
        ),
        _pressure("systolic", 1),
        _pressure("diastolic", 2),
    ),
    10,
    "only the date is known: the end of that day",
    aside(lacking("date", "chartdate"), lacking("result name", "result_name"), lacking("value", "result_value")),
)

_LAB_NUMERIC, _LAB_TEXT = measured("value", "valuenum")
LABEVENTS = Table(
    "labevents",
    HOSP,
    columns_of(ids="subject_id hadm_id", times="charttime", numbers="valuenum", texts="itemid value valueuom"),
    (Event(code("LAB", words("itemid"), or_unknown("valueuom")), pl.col("charttime"), _LAB_NUMERIC, _LAB_TEXT),),
    20,
    "at charttime, when the specimen was taken; flag, priority and comments are not read",
    aside(lacking("time", "charttime"), lacking("itemid", "itemid")),
)

_TEST = pl.concat_str(["micro_specimen_id", "test_seq", "test_itemid"], separator="|", ignore_nulls=True)
_ISOLATE = pl.concat_str([_TEST, pl.col("org_name"), pl.col("isolate_num")], separator="|", ignore_nulls=True)
_SAMPLED = pl.coalesce("charttime", "chartdate")
_STORED = pl.coalesce("storetime", "storedate")
_REPORTED = pl.when(_STORED.is_not_null()).then(pl.max_horizontal(_STORED, _SAMPLED))
MICROBIOLOGYEVENTS = Table(
    "microbiologyevents",
    HOSP,
    columns_of(
        ids="subject_id hadm_id",
        times="charttime storetime",
        dates="chartdate storedate",
        texts="micro_specimen_id spec_type_desc test_seq test_itemid test_name "
        "org_name isolate_num ab_name interpretation",
    ),
    (
        # One row an antibiotic: without `once` the number of specimen events would tell the result in
        # advance.
        Event(
            code("MICROBIOLOGY", pl.lit("SPECIMEN"), or_unknown("spec_type_desc"), or_unknown("test_name")),
            _SAMPLED,
            once=pl.concat_str(pl.lit("specimen|"), _TEST),
        ),
        Event(
            pl.when(pl.col("org_name").is_null()).then(code("MICROBIOLOGY", pl.lit("RESULT"), or_unknown("test_name"))),
            _REPORTED,
            once=pl.concat_str(pl.lit("result|"), _TEST),
        ),
        Event(
            code("MICROBIOLOGY", pl.lit("ORGANISM"), words("org_name")),
            _REPORTED,
            once=pl.concat_str(pl.lit("organism|"), _ISOLATE),
        ),
        Event(
            code("MICROBIOLOGY", pl.lit("SUSCEPTIBILITY"), words("ab_name"), or_unknown("interpretation")),
            _REPORTED,
        ),
    ),
    21,
    "specimen and test at charttime (end of chartdate where there is none), organism and susceptibility at "
    "storetime (end of storedate); comments are not read",
    aside(("no time", _SAMPLED.is_null())),
    repeats="repeats its specimen and test without a new result",
)

_CHART_NUMERIC, _CHART_TEXT = measured("value", "valuenum")
CHARTEVENTS = Table(
    "chartevents",
    ICU,
    columns_of(ids="subject_id hadm_id", times="charttime", numbers="valuenum", texts="itemid value valueuom"),
    (
        Event(
            code("CHART", words("itemid"), or_unknown("valueuom")),
            pl.col("charttime"),
            _CHART_NUMERIC,
            _CHART_TEXT,
        ),
    ),
    22,
    "at charttime",
    aside(lacking("time", "charttime"), lacking("itemid", "itemid")),
)

INPUTEVENTS = Table(
    "inputevents",
    ICU,
    columns_of(
        ids="subject_id hadm_id",
        times="starttime endtime",
        numbers="amount rate",
        texts="itemid amountuom rateuom",
    ),
    (
        Event(
            code("INFUSION_START", words("itemid"), or_unknown("rateuom")),
            pl.col("starttime"),
            pl.col("rate"),
        ),
        Event(
            code("INFUSION_END", words("itemid"), or_unknown("amountuom")),
            not_before("endtime", "starttime"),
            pl.col("amount"),
        ),
    ),
    30,
    "the rate at starttime, the amount given only at endtime",
    aside(lacking("time", "starttime"), lacking("itemid", "itemid")),
)

OUTPUTEVENTS = Table(
    "outputevents",
    ICU,
    columns_of(ids="subject_id hadm_id", times="charttime", numbers="value", texts="itemid valueuom"),
    (Event(code("OUTPUT", words("itemid"), or_unknown("valueuom")), pl.col("charttime"), pl.col("value")),),
    31,
    "at charttime",
    aside(lacking("time", "charttime"), lacking("itemid", "itemid")),
)

PROCEDUREEVENTS = Table(
    "procedureevents",
    ICU,
    columns_of(ids="subject_id hadm_id", times="starttime", texts="itemid"),
    (Event(code("ICU_PROCEDURE", words("itemid")), pl.col("starttime")),),
    32,
    "at starttime; its value is a duration, which is not known then and is not read",
    aside(lacking("time", "starttime"), lacking("itemid", "itemid")),
)

PRESCRIPTIONS = Table(
    "prescriptions",
    HOSP,
    columns_of(ids="subject_id hadm_id", times="starttime", texts="drug"),
    (Event(code("MEDICATION", words("drug")), pl.col("starttime")),),
    40,
    "at starttime",
    aside(lacking("time", "starttime"), lacking("drug", "drug")),
)

EMAR = Table(
    "emar",
    HOSP,
    columns_of(ids="subject_id hadm_id", times="charttime", texts="medication event_txt"),
    (Event(code("ADMINISTRATION", words("medication"), or_unknown("event_txt")), pl.col("charttime")),),
    41,
    "at charttime",
    aside(lacking("time", "charttime"), lacking("medication", "medication")),
)

HCPCSEVENTS = Table(
    "hcpcsevents",
    HOSP,
    columns_of(ids="subject_id hadm_id", dates="chartdate", texts="hcpcs_cd short_description"),
    (Event(code("HCPCS", words("hcpcs_cd")), pl.col("chartdate")),),
    50,
    "only the date is known: the end of that day",
    aside(lacking("date", "chartdate"), lacking("code", "hcpcs_cd")),
)

DIAGNOSES_ICD = Table(
    "diagnoses_icd",
    HOSP,
    columns_of(ids="subject_id hadm_id", texts="icd_code icd_version"),
    (
        Event(
            code(
                "DIAGNOSIS",
                pl.concat_str(pl.lit("ICD"), "icd_version", pl.lit("CM")),
                words("icd_code"),
            ),
            pl.col(DISCHARGE),
        ),
    ),
    BILLING,
    BILLED_WHY,
    aside(*BILLED, lacking("code", "icd_code"), lacking("code version", "icd_version")),
)

PROCEDURES_ICD = Table(
    "procedures_icd",
    HOSP,
    columns_of(ids="subject_id hadm_id", texts="icd_code icd_version"),
    (
        Event(
            code(
                "PROCEDURE",
                pl.concat_str(pl.lit("ICD"), "icd_version", pl.lit("PCS")),
                words("icd_code"),
            ),
            pl.col(DISCHARGE),
        ),
    ),
    BILLING,
    BILLED_WHY + ", although chartdate may be earlier",
    aside(*BILLED, lacking("code", "icd_code"), lacking("code version", "icd_version")),
)

DRGCODES = Table(
    "drgcodes",
    HOSP,
    columns_of(ids="subject_id hadm_id", texts="drg_type drg_code description"),
    (Event(code("DRG", or_unknown("drg_type"), words("drg_code")), pl.col(DISCHARGE)),),
    BILLING,
    BILLED_WHY,
    aside(*BILLED, lacking("code", "drg_code")),
)

# In the order of reading; patients and admissions come first because the others are joined to them.
TABLES = (
    PATIENTS,
    ADMISSIONS,
    TRANSFERS,
    ICUSTAYS,
    SERVICES,
    OMR,
    LABEVENTS,
    MICROBIOLOGYEVENTS,
    CHARTEVENTS,
    INPUTEVENTS,
    OUTPUTEVENTS,
    PROCEDUREEVENTS,
    PRESCRIPTIONS,
    EMAR,
    HCPCSEVENTS,
    DIAGNOSES_ICD,
    PROCEDURES_ICD,
    DRGCODES,
)

# Tables whose own columns describe the codes they give.
DESCRIBING = {"drgcodes": "description", "hcpcsevents": "short_description"}

# Part of MIMIC-IV, deliberately not read, and why.
NOT_READ = {
    "hosp/emar_detail": "doses of what emar says was given",
    "hosp/pharmacy": "the dispensing of what prescriptions orders",
    "hosp/poe": "orders whose results the other tables hold",
    "hosp/poe_detail": "details of poe",
    "hosp/provider": "who ordered",
    "icu/caregiver": "who charted",
    "icu/datetimeevents": "dates charted as values",
    "icu/ingredientevents": "the ingredients of what inputevents gives",
}
