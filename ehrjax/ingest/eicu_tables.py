"""eICU's tables (Collaborative Research Database 2.0): which columns are read, which codes they give, and when each
became known.

Source: https://eicu-crd.mit.edu/eicutables/. All times are minutes since the admission to the unit of a
`patientunitstayid`; the reader turns them into pseudo-dates (see `eicu`) before the expressions below are used.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.meds import BIRTH, DEATH
from ehrjax.ingest.raw_tables import Event, Table, code, columns_of, or_unknown, words

# Columns that the reader adds: whether the stay is known, and what an offset means as a time.
KNOWN_STAY, TIME = "known_stay", "time"
ADMITTED, UNIT_ADMITTED, UNIT_LEFT, LEFT, BORN = "admitted", "unit_admitted", "unit_left", "left", "born"

_STATIC, _START, _UNIT, _UNIT_END, _END, _DEATH = 0, 1, 2, 60, 61, 99

NO_STAY = ("no patientunitstayid", pl.col("patientunitstayid").is_null())
UNKNOWN_STAY = ("patientunitstayid not in patient", ~pl.col(KNOWN_STAY))
NO_TIME = ("no offset", pl.col(TIME).is_null())

_ONE_STAY = pl.col("patienthealthsystemstayid").cast(pl.String)
_FIRST = pl.col("number") == 0
EXPIRED = "Expired"


def _once(what: str) -> pl.Expr:
    """A hospital stay has a row for each of its unit stays."""
    return pl.concat_str(pl.lit(f"{what}|"), _ONE_STAY)


PATIENT = Table(
    "patient",
    "",
    columns_of(
        ids="patientunitstayid patienthealthsystemstayid hospitaldischargeyear hospitaladmitoffset "
        "hospitaldischargeoffset unitdischargeoffset",
        texts="uniquepid gender age ethnicity unittype unitadmitsource hospitaladmitsource hospitaldischargelocation "
        "hospitaldischargestatus unitdischargelocation unitdischargestatus",
    ),
    (
        # Told by the first stay: what only a later one tells is not known before.
        Event(pl.when(_FIRST).then(code("GENDER", words("gender"))), None, once=pl.lit("gender")),
        Event(pl.when(_FIRST).then(code("RACE", words("ethnicity"))), None, once=pl.lit("race")),
        Event(pl.when(pl.col(BORN).is_not_null()).then(pl.lit(BIRTH)), pl.col(BORN), once=pl.lit("birth")),
        Event(
            code("HOSPITAL_ADMISSION", or_unknown("hospitaladmitsource")),
            pl.col(ADMITTED),
            once=_once("admission"),
            rank=_START,
        ),
        Event(code("AGE", words("age"), pl.lit("years")), pl.col(ADMITTED), once=_once("age"), rank=_START),
        Event(code("ICU_ADMISSION", or_unknown("unittype")), pl.col(UNIT_ADMITTED), rank=_UNIT),
        Event(code("UNIT_ADMIT_SOURCE", words("unitadmitsource")), pl.col(UNIT_ADMITTED), rank=_UNIT),
        Event(code("ICU_DISCHARGE", or_unknown("unitdischargelocation")), pl.col(UNIT_LEFT), rank=_UNIT_END),
        Event(
            code("HOSPITAL_DISCHARGE", or_unknown("hospitaldischargelocation")),
            pl.col(LEFT),
            once=_once("discharge"),
            rank=_END,
        ),
        Event(
            pl.when((pl.col("hospitaldischargestatus") == EXPIRED) | (pl.col("unitdischargestatus") == EXPIRED)).then(
                pl.lit(DEATH)
            ),
            pl.when(pl.col("unitdischargestatus") == EXPIRED).then(pl.col(UNIT_LEFT)).otherwise(pl.col(LEFT)),
            once=pl.lit("death"),
            rank=_DEATH,
        ),
    ),
    _STATIC,
    "gender and ethnicity are static; who is admitted and from where at hospitaladmitoffset; the unit at its own "
    "admission; unit and hospital discharge, and a death, at their offsets; weights, heights and the APACHE diagnosis "
    "are not read here",
    (
        ("no patientunitstayid", pl.col("patientunitstayid").is_null()),
        ("no uniquepid", pl.col("uniquepid").is_null()),
        ("no patienthealthsystemstayid", pl.col("patienthealthsystemstayid").is_null()),
    ),
    required=True,
)


@dataclass(frozen=True)
class Timed:
    """A table whose rows have an offset.

    Attributes:
      table: what its rows mean, in terms of TIME.
      offset: its column of minutes.
    """

    table: Table
    offset: str


def _timed(
    name: str,
    offset: str,
    events: tuple[Event, ...],
    rank: int,
    why: str,
    *,
    texts: str = "",
    numbers: str = "",
    aside: tuple[tuple[str, pl.Expr], ...] = (),
) -> Timed:
    columns = columns_of(ids=f"patientunitstayid {offset}", texts=texts, numbers=numbers)
    return Timed(Table(name, "", columns, events, rank, why, (NO_STAY, UNKNOWN_STAY, NO_TIME, *aside)), offset)


def _missing(what: str, column: str) -> tuple[str, pl.Expr]:
    return f"no {what}", pl.col(column).is_null()


def _number_or_text(value: str) -> tuple[pl.Expr, pl.Expr]:
    number = pl.col(value).cast(pl.Float64, strict=False)
    number = pl.when(number.is_finite()).then(number)
    return number, pl.when(number.is_null()).then(pl.col(value))


def _vitals(name: str, columns: dict[str, str], why: str) -> Timed:
    """A wide table of measurements, one event a column that is not empty."""
    events = tuple(
        Event(
            pl.when(pl.col(column).is_not_null()).then(code("VITAL", pl.lit(column), pl.lit(unit))),
            pl.col(TIME),
            pl.col(column),
        )
        for column, unit in columns.items()
    )
    return _timed(name, "observationoffset", events, 22, why, numbers=" ".join(columns))


_CHARTED, _CHARTED_TEXT = _number_or_text("nursingchartvalue")
_BREATHED, _BREATHED_TEXT = _number_or_text("respchartvalue")
_LAB = pl.coalesce("labresult", pl.when(~pl.col("labresulttext").str.contains(r"^[<>]")).then(
    pl.col("labresulttext").cast(pl.Float64, strict=False)))  # fmt: skip
_LAB = pl.when(_LAB.is_finite() & ~pl.col("labresulttext").str.contains(r"^[<>]").fill_null(False)).then(_LAB)
_RATE, _RATE_TEXT = _number_or_text("drugrate")
_DRUG = pl.coalesce("drugname", pl.concat_str(pl.lit("HICL "), "drughiclseqno"))
_FIRST_CODE = pl.col("icd9code").str.split(",").list.first()

TIMED = (
    _timed(
        "admissionDx",
        "admitdxenteredoffset",
        (Event(code("ADMISSION_DIAGNOSIS", words("admitdxpath")), pl.col(TIME)),),
        10,
        "when it was entered",
        texts="admitdxpath",
        aside=(_missing("path", "admitdxpath"),),
    ),
    _timed(
        "pastHistory",
        "pasthistoryenteredoffset",
        (Event(code("HISTORY", words("pasthistorypath")), pl.col(TIME)),),
        11,
        "when it was entered, not when it happened",
        texts="pasthistorypath",
        aside=(_missing("path", "pasthistorypath"),),
    ),
    _timed(
        "allergy",
        "allergyenteredoffset",
        (Event(code("ALLERGY", words("allergyname")), pl.col(TIME)),),
        12,
        "when it was entered",
        texts="allergyname",
        aside=(_missing("name", "allergyname"),),
    ),
    _timed(
        "lab",
        "labresultoffset",
        (
            Event(
                code("LAB", words("labname"), or_unknown("labmeasurenamesystem")),
                pl.col(TIME),
                _LAB,
                pl.when(_LAB.is_null()).then("labresulttext"),
            ),
        ),
        20,
        "at labresultoffset, when the specimen was drawn; a bound such as <0.01 stays text",
        texts="labname labresulttext labmeasurenamesystem",
        numbers="labresult",
        aside=(_missing("name", "labname"),),
    ),
    _timed(
        "microLab",
        "culturetakenoffset",
        (
            Event(code("MICROBIOLOGY", pl.lit("SPECIMEN"), or_unknown("culturesite")), pl.col(TIME),
                  once=pl.concat_str(["patientunitstayid", "culturetakenoffset", "culturesite"], separator="|",
                                     ignore_nulls=True)),
            # When a culture was reported is not told: known by the end of the unit stay.
            Event(code("MICROBIOLOGY", pl.lit("ORGANISM"), words("organism")), pl.col(UNIT_LEFT), rank=59),
            Event(code("MICROBIOLOGY", pl.lit("SUSCEPTIBILITY"), words("antibiotic"), or_unknown("sensitivitylevel")),
                  pl.col(UNIT_LEFT), rank=59),
        ),
        21,
        "the specimen when it was taken; organism and sensitivity by the end of the unit stay, since no time of report "
        "is given",
        texts="culturesite organism antibiotic sensitivitylevel",
    ),
    _vitals(
        "vitalPeriodic",
        {"temperature": "degC", "sao2": "%", "heartrate": "bpm", "respiration": "bpm", "systemicsystolic": "mmHg",
         "systemicdiastolic": "mmHg", "systemicmean": "mmHg", "cvp": "mmHg", "etco2": "mmHg"},
        "at observationoffset; pulmonary pressures, ST segments and ICP are not read",
    ),
    _vitals(
        "vitalAperiodic",
        {"noninvasivesystolic": "mmHg", "noninvasivediastolic": "mmHg", "noninvasivemean": "mmHg"},
        "at observationoffset; what a catheter computes is not read",
    ),
    _timed(
        "nurseCharting",
        "nursingchartentryoffset",
        (
            Event(
                code("CHART", words("nursingchartcelltypevallabel"), or_unknown("nursingchartcelltypevalname")),
                pl.col(TIME),
                _CHARTED,
                _CHARTED_TEXT,
            ),
        ),
        23,
        "when it was entered",
        texts="nursingchartcelltypevallabel nursingchartcelltypevalname nursingchartvalue",
        aside=(_missing("label", "nursingchartcelltypevallabel"),),
    ),
    _timed(
        "respiratoryCharting",
        "respchartentryoffset",
        (Event(code("RESPIRATORY", words("respchartvaluelabel")), pl.col(TIME), _BREATHED, _BREATHED_TEXT),),
        24,
        "when it was entered",
        texts="respchartvaluelabel respchartvalue",
        aside=(_missing("label", "respchartvaluelabel"),),
    ),
    _timed(
        "intakeOutput",
        "intakeoutputentryoffset",
        (
            Event(
                code("INTAKE_OUTPUT", words("celllabel"), pl.lit("mL")),
                pl.col(TIME),
                pl.when(pl.col("cellvaluenumeric").is_not_null()).then("cellvaluenumeric"),
            ),
        ),
        25,
        "when it was entered",
        texts="celllabel",
        numbers="cellvaluenumeric",
        aside=(_missing("label", "celllabel"),),
    ),
    _timed(
        "infusiondrug",
        "infusionoffset",
        (Event(code("INFUSION", words("drugname")), pl.col(TIME), _RATE, _RATE_TEXT),),
        30,
        "at infusionoffset, with its rate",
        texts="drugname drugrate",
        aside=(_missing("drug", "drugname"),),
    ),
    _timed(
        "medication",
        "drugstartoffset",
        (Event(code("MEDICATION", words(_DRUG)), pl.col(TIME)),),
        40,
        "at its start; stop and cancellation were told later and are not read",
        texts="drugname drughiclseqno",
        aside=(("no drug", pl.col("drugname").is_null() & pl.col("drughiclseqno").is_null()),),
    ),
    _timed(
        "treatment",
        "treatmentoffset",
        (Event(code("TREATMENT", words("treatmentstring")), pl.col(TIME)),),
        41,
        "when it was entered",
        texts="treatmentstring",
        aside=(_missing("treatment", "treatmentstring"),),
    ),
    _timed(
        "diagnosis",
        "diagnosisoffset",
        (
            Event(code("DIAGNOSIS", pl.lit("EICU"), words("diagnosisstring")), pl.col(TIME)),
            Event(code("DIAGNOSIS", pl.lit("ICD"), words(_FIRST_CODE)), pl.col(TIME)),
        ),
        50,
        "when it was entered in the unit; of several ICD codes the first",
        texts="diagnosisstring icd9code",
        aside=(("neither diagnosis nor code", pl.col("diagnosisstring").is_null() & pl.col("icd9code").is_null()),),
    ),
)  # fmt: skip

TABLES = (PATIENT, *(timed.table for timed in TIMED))

# Part of eICU, deliberately not read, and why.
NOT_READ = {
    "admissiondrug": "drugs taken before, as free text",
    "apacheApsVar": "a summary of the first day",
    "apachePatientResult": "predictions and outcomes of the stay",
    "apachePredVar": "a summary of the first day",
    "carePlanCareProvider": "who cared",
    "carePlanEOL": "plans",
    "carePlanGeneral": "plans",
    "carePlanGoal": "plans",
    "carePlanInfectiousDisease": "plans",
    "customLab": "laboratory tests without standard names",
    "hospital": "where",
    "note": "free text",
    "nurseAssessment": "free text in fields",
    "nurseCare": "free text in fields",
    "physicalExam": "free text in fields",
    "respiratoryCare": "settings that respiratoryCharting holds",
}

ROLES = {
    "admission": ["HOSPITAL_ADMISSION(//|$)"],
    "discharge": ["HOSPITAL_DISCHARGE(//|$)"],
    "discharge_dead": ["HOSPITAL_DISCHARGE//Death$"],
    "icu_admission": ["ICU_ADMISSION(//|$)"],
    "icu_discharge": ["ICU_DISCHARGE(//|$)"],
    "diagnosis": ["DIAGNOSIS//"],
    "procedure": ["TREATMENT//"],
    "medication": ["MEDICATION//", "INFUSION//"],
    "lab": ["LAB//"],
    "female": ["GENDER//Female$"],
    "male": ["GENDER//Male$"],
}

_SENTENCES = {
    "GENDER": "Gender: {0}",
    "RACE": "Ethnicity: {0}",
    BIRTH: "Birth",
    DEATH: "Death",
    "AGE": "Age at admission: {0} years",
    "HOSPITAL_ADMISSION": "Admitted to hospital from {0}",
    "HOSPITAL_DISCHARGE": "Discharged from hospital to {0}",
    "ICU_ADMISSION": "Admitted to intensive care: {0}",
    "UNIT_ADMIT_SOURCE": "Came to intensive care from {0}",
    "ICU_DISCHARGE": "Left intensive care for {0}",
    "ADMISSION_DIAGNOSIS": "Diagnosis on admission: {0}",
    "HISTORY": "Past history: {0}",
    "ALLERGY": "Allergy: {0}",
    "LAB": "Laboratory test: {0} ({1})",
    "MICROBIOLOGY": "Microbiology, {0}",
    "VITAL": "Vital sign: {0} ({1})",
    "CHART": "Nursing chart: {0}, {1}",
    "RESPIRATORY": "Respiratory chart: {0}",
    "INTAKE_OUTPUT": "Intake or output: {0} ({1})",
    "INFUSION": "Infusion: {0}",
    "MEDICATION": "Drug: {0}",
    "TREATMENT": "Treatment: {0}",
    "DIAGNOSIS": "Diagnosis ({0}): {1}",
}


def describe(name: str) -> str:
    """A readable sentence for a code."""
    family, *rest = name.split("//")
    if family == "MICROBIOLOGY":
        return f"Microbiology, {rest[0].lower()}: {', '.join(rest[1:])}"
    return _SENTENCES[family].format(*("unknown" if part == "UNK" else part for part in rest))
