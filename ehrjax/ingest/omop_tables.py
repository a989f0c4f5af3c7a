"""The OMOP CDM's tables (5.3 and 5.4): which columns are read, which codes they give, and when each became known.

Source: https://ohdsi.github.io/CommonDataModel/cdm54.html and cdm53.html. Dates are required in OMOP and times are
not; a time of exactly midnight is how most ETLs fill a missing one, so it is taken for its date: known by the end of
that day. Diagnoses and procedures are dated by their visit's start in most CDMs although they were coded from the
finished record, so they count from the end of their visit (see `omop.Settings.coded_at`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from ehrjax.ingest.meds import BIRTH, DEATH
from ehrjax.ingest.raw_csv import Kind, end_of_day
from ehrjax.ingest.raw_tables import UNKNOWN, Event, Table, code, columns_of

# Columns that the reader adds to every row before `events_of`.
KNOWN_PERSON = "known_person"
CODE, UNIT, TIME, END, FINISHED = "code", "unit", "time", "end", "finished"
ANSWER, FROM, TO, KIND_OF, CAUSE = "answer", "from_code", "to_code", "death_type", "death_cause"

_STATIC, _START, _END, _CODED, _DEATH_FACTS, _DEATH = 0, 1, 60, 70, 98, 99

NO_PERSON = ("no person_id", pl.col("person_id").is_null())
UNKNOWN_PERSON = ("person_id not in person", ~pl.col(KNOWN_PERSON))
NO_CODE = ("neither concept nor source value", pl.col(CODE).is_null())
NO_DATE = ("no date", pl.col(TIME).is_null())
UNFINISHED = ("its visit has no end", pl.col(FINISHED).is_null())


@dataclass(frozen=True)
class Clinical:
    """A table of things that happened to a person.

    Attributes:
      table: what its rows mean, in terms of the columns that the reader adds.
      concept: the prefix of X_concept_id, X_source_concept_id and X_source_value.
      start: the prefix of X_date and X_datetime.
      end: the same for the end of a visit.
      coded: its rows were coded from the finished record.
    """

    table: Table
    concept: str
    start: str
    end: str | None = None
    coded: bool = False


def _clinical(
    name: str,
    concept: str,
    start: str,
    events: tuple[Event, ...],
    rank: int,
    why: str,
    *,
    end: str | None = None,
    coded: bool = False,
    ids: str = "",
    optional: dict[str, Kind] | None = None,
) -> Clinical:
    columns = columns_of(ids=f"person_id {concept}_concept_id {ids}", dates=f"{start}_date")
    there_or_not = columns_of(
        ids=f"visit_occurrence_id {concept}_source_concept_id",
        texts=f"{concept}_source_value",
        times=f"{start}_datetime" + (f" {end}_datetime" if end else ""),
        dates=f"{end}_date" if end else "",
    )
    aside = (NO_PERSON, UNKNOWN_PERSON, NO_CODE, NO_DATE, *((UNFINISHED,) if coded else ()))
    optional = {k: v for k, v in (there_or_not | (optional or {})).items() if k not in columns}
    return Clinical(Table(name, "", columns, events, rank, why, aside, optional=optional), concept, start, end, coded)


def day_or_time(date: str, time: str) -> pl.Expr:
    """When something dated by `X_date` (already the day's last moment) and `X_datetime` was known by."""
    at_midnight = pl.col(time).dt.time() == pl.time(0, 0, 0)
    return pl.coalesce(
        pl.when(pl.col(time).is_not_null() & ~at_midnight).then(pl.col(time)),
        date,
        end_of_day(pl.col(time).dt.date()),
    )


PERSON = Table(
    "person",
    "",
    columns_of(
        ids="person_id gender_concept_id year_of_birth race_concept_id ethnicity_concept_id",
    ),
    (
        Event(code("GENDER", pl.col("gender")), None),
        Event(code("RACE", pl.col("race")), None),
        Event(code("ETHNICITY", pl.col("ethnicity")), None),
        Event(pl.lit(BIRTH), pl.col("birth")),
    ),
    _STATIC,
    "gender, race and ethnicity are static; birth is birth_datetime, else the first moment of what is known of the "
    "year, month and day",
    (NO_PERSON,),
    required=True,
    optional=columns_of(
        ids="month_of_birth day_of_birth",
        times="birth_datetime",
        texts="gender_source_value race_source_value ethnicity_source_value",
    ),
)


def _visits(name: str, concept: str, family: str, ids: str) -> Clinical:
    return _clinical(
        name,
        concept,
        f"{concept}_start",
        (
            Event(code(f"{family}_START", pl.col(CODE)), pl.col(TIME)),
            Event(code("ADMITTED_FROM", pl.col(FROM)), pl.col(TIME)),
            Event(code("DISCHARGED_TO", pl.col(TO)), pl.col(END), rank=_END),
            Event(code(f"{family}_END", pl.col(CODE)), pl.col(END), rank=_END),
        ),
        _START,
        "the visit, its kind and where from at its start; its end and where to at its end",
        end=f"{concept}_end",
        ids=ids,
        # 5.3 calls them admitting_source and discharge_to.
        optional=columns_of(
            ids="admitted_from_concept_id admitting_source_concept_id discharged_to_concept_id discharge_to_concept_id"
        ),
    )


def _happened(
    family: str, *, unit: bool = False, numeric: pl.Expr | None = None, text: pl.Expr | None = None
) -> tuple[Event]:
    parts = (pl.col(CODE), pl.col(UNIT).fill_null(UNKNOWN)) if unit else (pl.col(CODE),)
    return (Event(code(family, *parts), pl.col(TIME), numeric, text),)


# The operators of OMOP that make a number a bound (<, >, <=, >=); a bound is no value and stays text.
BOUNDS = {4171756: "<", 4172704: ">", 4171754: "<=", 4171755: ">="}
_BOUND = pl.col("operator_concept_id").replace_strict(BOUNDS, default=None, return_dtype=pl.String)
_NUMBER = pl.col("value_as_number")
_UNITS = columns_of(ids="unit_concept_id value_as_concept_id", numbers="value_as_number", texts="unit_source_value")

VISIT_OCCURRENCE = _visits("visit_occurrence", "visit", "VISIT", "visit_occurrence_id")
VISIT_DETAIL = _visits("visit_detail", "visit_detail", "VISIT_DETAIL", "visit_detail_id")

CONDITION_OCCURRENCE = _clinical(
    "condition_occurrence",
    "condition",
    "condition_start",
    _happened("DIAGNOSIS"),
    _CODED,
    "at the end of its visit, or at its own start where it belongs to none; its end, type and status are not read",
    coded=True,
)
PROCEDURE_OCCURRENCE = _clinical(
    "procedure_occurrence",
    "procedure",
    "procedure",
    _happened("PROCEDURE"),
    _CODED,
    "at the end of its visit, or at its own time where it belongs to none",
    coded=True,
)
DRUG_EXPOSURE = _clinical(
    "drug_exposure",
    "drug",
    "drug_exposure_start",
    _happened("MEDICATION"),
    40,
    "at its start; the end is planned or told later and is not read, nor are dose and route",
)
DEVICE_EXPOSURE = _clinical(
    "device_exposure", "device", "device_exposure_start", _happened("DEVICE"), 41, "at its start"
)
MEASUREMENT = _clinical(
    "measurement",
    "measurement",
    "measurement",
    _happened(
        "MEASUREMENT",
        unit=True,
        numeric=pl.when(_BOUND.is_null()).then(_NUMBER),
        text=pl.when(_BOUND.is_not_null() & _NUMBER.is_not_null())
        .then(pl.concat_str(_BOUND, _NUMBER.cast(pl.String)))
        .when(_NUMBER.is_null())
        .then(pl.coalesce(ANSWER, "value_source_value")),
    ),
    20,
    "at its own time; the normal range is not read",
    optional=_UNITS | columns_of(ids="operator_concept_id", texts="value_source_value"),
)
OBSERVATION = _clinical(
    "observation",
    "observation",
    "observation",
    _happened(
        "OBSERVATION",
        unit=True,
        numeric=_NUMBER,
        text=pl.when(_NUMBER.is_null()).then(pl.coalesce(ANSWER, "value_as_string", "value_source_value")),
    ),
    21,
    "at its own time; its qualifier is not read",
    optional=_UNITS | columns_of(texts="value_as_string value_source_value"),
)
SPECIMEN = _clinical("specimen", "specimen", "specimen", _happened("SPECIMEN"), 19, "when it was taken")

DEATH_TABLE = Table(
    "death",
    "",
    columns_of(ids="person_id", dates="death_date"),
    (
        Event(pl.lit(DEATH), pl.col(TIME), rank=_DEATH, once=pl.lit("death")),
        Event(code("DEATH_TYPE", pl.col(KIND_OF)), pl.col(TIME), once=pl.lit("type")),
        Event(code("DEATH_CAUSE", pl.col(CAUSE)), pl.col(TIME), once=pl.lit("cause")),
    ),
    _DEATH_FACTS,
    "at its own time; what kind of record tells it, and its cause, at that time too",
    (NO_PERSON, UNKNOWN_PERSON, NO_DATE),
    repeats="repeats an earlier death of the person",
    optional=columns_of(
        ids="death_type_concept_id cause_concept_id cause_source_concept_id",
        times="death_datetime",
        texts="cause_source_value",
    ),
)

# In the order of reading; person and visit_occurrence come first because the others are joined to them.
CLINICAL = (
    VISIT_OCCURRENCE,
    VISIT_DETAIL,
    CONDITION_OCCURRENCE,
    PROCEDURE_OCCURRENCE,
    DRUG_EXPOSURE,
    DEVICE_EXPOSURE,
    MEASUREMENT,
    OBSERVATION,
    SPECIMEN,
)
TABLES = (PERSON, *(clinical.table for clinical in CLINICAL), DEATH_TABLE)

# Part of the CDM, deliberately not read, and why.
NOT_READ = {
    "condition_era": "derived from condition_occurrence, with ends that tell the future",
    "drug_era": "derived from drug_exposure, with ends that tell the future",
    "dose_era": "derived from drug_exposure, with ends that tell the future",
    "episode": "derived from other tables",
    "episode_event": "derived from other tables",
    "cost": "billing after the fact",
    "payer_plan_period": "periods whose ends tell the future",
    "observation_period": "periods whose ends tell the future",
    "note": "free text",
    "note_nlp": "derived from notes",
    "fact_relationship": "links between rows",
    "cohort": "derived from other tables",
    "provider": "who treated",
    "care_site": "where",
    "location": "where",
}

FAMILIES = {
    "GENDER": "Gender",
    "RACE": "Race",
    "ETHNICITY": "Ethnicity",
    "VISIT_START": "Visit began",
    "VISIT_END": "Visit ended",
    "VISIT_DETAIL_START": "Part of a visit began",
    "VISIT_DETAIL_END": "Part of a visit ended",
    "ADMITTED_FROM": "Admitted from",
    "DISCHARGED_TO": "Discharged to",
    "DIAGNOSIS": "Diagnosis",
    "PROCEDURE": "Procedure",
    "MEDICATION": "Drug",
    "DEVICE": "Device",
    "MEASUREMENT": "Measurement",
    "OBSERVATION": "Observation",
    "SPECIMEN": "Specimen taken",
    "DEATH_TYPE": "How the death was recorded",
    "DEATH_CAUSE": "Cause of death",
}
# Families whose codes end in a unit.
WITH_UNIT = ("MEASUREMENT", "OBSERVATION")
