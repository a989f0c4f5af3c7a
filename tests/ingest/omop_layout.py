"""Made-up rows in the layout of the OMOP CDM 5.4 (or 5.3), as text."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl

CONCEPTS = (
    (8507, "MALE", "Gender", "M"),
    (8532, "FEMALE", "Gender", "F"),
    (8527, "White", "Race", "5"),
    (38003564, "Not Hispanic or Latino", "Ethnicity", "Not Hispanic"),
    (9201, "Inpatient Visit", "Visit", "IP"),
    (9202, "Outpatient Visit", "Visit", "OP"),
    (32037, "Intensive Care", "Visit", "ICU"),
    (581476, "Home", "Visit", "Home"),
    (201826, "Type 2 diabetes mellitus", "SNOMED", "44054006"),
    (201820, "Diabetes mellitus", "SNOMED", "73211009"),
    (45561952, "Type 2 diabetes mellitus without complications", "ICD10CM", "E11.9"),
    (4048384, "Bronchoscopy", "SNOMED", "10847001"),
    (1503297, "metformin", "RxNorm", "6809"),
    (40163924, "metformin 500 MG", "RxNorm", "861007"),
    (3004501, "Glucose [Mass/volume] in Serum", "LOINC", "2345-7"),
    (8840, "milligram per deciliter", "UCUM", "mg/dL"),
    (4041306, "Tobacco use", "SNOMED", "229819007"),
    (4144272, "Never smoked tobacco", "SNOMED", "266919005"),
    (32817, "EHR", "Type Concept", "OMOP4976890"),
    (4217646, "Implant", "SNOMED", "40388003"),
    (4001225, "Blood specimen", "SNOMED", "119297000"),
    (321042, "Cardiac arrest", "SNOMED", "410429000"),
)
RELATIONS = (
    (45561952, 201826, "Maps to", ""),
    (201826, 201820, "Is a", ""),
    (201820, 201826, "Subsumes", ""),
    (40163924, 1503297, "RxNorm has ing", ""),
    (40163924, 201820, "Is a", "D"),
    (201826, 201826, "Maps to", ""),
)


def generate(seed: int, *, persons: int = 4, version: str = "5.4") -> dict[str, pl.DataFrame]:
    """Table name -> rows as text."""
    rng = np.random.default_rng(seed)
    begin = datetime(2012, 3, 1)
    tables: dict[str, list[dict[str, object]]] = {}

    def add(table: str, **row: object) -> None:
        tables.setdefault(table, []).append(row)

    def dated(prefix: str, time: datetime) -> dict[str, object]:
        # Some ETLs write midnight where only the date is known, others leave the time empty.
        shown = (time, time.replace(hour=0, minute=0, second=0), "")[int(rng.integers(3))]
        return {
            f"{prefix}_date": f"{time:%Y-%m-%d}",
            f"{prefix}_datetime": f"{shown:%Y-%m-%d %H:%M:%S}" if shown else "",
        }

    def some(*values: object) -> object:
        return values[int(rng.integers(len(values)))]

    moves = (
        ("admitted_from_concept_id", "discharged_to_concept_id")
        if version == "5.4"
        else ("admitting_source_concept_id", "discharge_to_concept_id")
    )
    number = 0
    for person in range(1, persons + 1):
        born = datetime(1940 + 7 * person, 5, 4)
        add(
            "person",
            person_id=person,
            gender_concept_id=some(8507, 8532),
            year_of_birth=born.year,
            month_of_birth=some(born.month, ""),
            day_of_birth=some(born.day, ""),
            birth_datetime=some(f"{born:%Y-%m-%d %H:%M:%S}", ""),
            race_concept_id=some(8527, 0),
            ethnicity_concept_id=some(38003564, 0, 777),
            gender_source_value="M",
            race_source_value=some("white", ""),
            ethnicity_source_value="",
        )
        at = begin + timedelta(days=int(rng.integers(50)))
        for _ in range(3):
            number += 1
            start = at + timedelta(days=int(rng.integers(1, 200)), hours=int(rng.integers(1, 20)))
            end = start + timedelta(hours=int(rng.integers(1, 100)))
            at = end
            visit = {"person_id": person, "visit_occurrence_id": number}
            add(
                "visit_occurrence",
                **visit,
                visit_concept_id=some(9201, 9202, 0),
                visit_source_concept_id=0,
                visit_source_value=f"v{number}",
                **dated("visit_start", start),
                **dated("visit_end", end),
                **{moves[0]: some(581476, 0), moves[1]: some(581476, 0)},
            )
            add(
                "visit_detail",
                **visit,
                visit_detail_id=1000 + number,
                visit_detail_concept_id=32037,
                visit_detail_source_concept_id=0,
                visit_detail_source_value="",
                **dated("visit_detail_start", start + timedelta(minutes=30)),
                **dated("visit_detail_end", end),
            )
            for _ in range(int(rng.integers(1, 3))):
                link = {"person_id": person, "visit_occurrence_id": some(number, number, "")}

                def concept(prefix: str, standard: object, source: object, value: object) -> dict[str, object]:
                    return {
                        f"{prefix}_concept_id": standard,
                        f"{prefix}_source_concept_id": source,
                        f"{prefix}_source_value": value,
                    }

                during = start + timedelta(minutes=int(rng.integers(0, 600)))
                add(
                    "condition_occurrence",
                    **link,
                    **concept("condition", some(201826, 0), some(45561952, 0), "E11.9"),
                    **dated("condition_start", during),
                )
                add(
                    "procedure_occurrence",
                    **link,
                    **concept("procedure", 4048384, 0, "31622"),
                    **dated("procedure", during),
                )
                add(
                    "drug_exposure",
                    **link,
                    **concept("drug", some(40163924, 0), 0, "met 500"),
                    **dated("drug_exposure_start", during),
                )
                add(
                    "device_exposure",
                    **link,
                    **concept("device", 4217646, 0, ""),
                    **dated("device_exposure_start", during),
                )
                add(
                    "measurement",
                    **link,
                    **concept("measurement", 3004501, some(3004501, 0), "2345-7"),
                    **dated("measurement", during),
                    operator_concept_id=some("", 0, 4172704),
                    value_as_number=some(round(float(rng.normal(110, 20)), 1), ""),
                    value_as_concept_id=some("", 0),
                    unit_concept_id=some(8840, 0),
                    unit_source_value=some("mg/dl", ""),
                    value_source_value=some("high", ""),
                )
                add(
                    "observation",
                    **link,
                    **concept("observation", 4041306, 0, "smoking"),
                    **dated("observation", during),
                    value_as_number="",
                    value_as_string=some("never", ""),
                    value_as_concept_id=some(4144272, 0),
                    unit_concept_id="",
                    unit_source_value="",
                    value_source_value="",
                )
                add(
                    "specimen",
                    **link,
                    specimen_concept_id=4001225,
                    specimen_source_value="",
                    **dated("specimen", during),
                )
        if person % 2:
            add(
                "death",
                person_id=person,
                **dated("death", at + timedelta(days=40)),
                death_type_concept_id=32817,
                cause_concept_id=some(321042, 0),
                cause_source_concept_id=0,
                cause_source_value=some("I46", ""),
            )
    for concept_id, name, vocabulary, code in CONCEPTS:
        add("concept", concept_id=concept_id, concept_name=name, vocabulary_id=vocabulary, concept_code=code)
    for first, second, relation, invalid in RELATIONS:
        add(
            "concept_relationship",
            concept_id_1=first,
            concept_id_2=second,
            relationship_id=relation,
            invalid_reason=invalid,
        )
    add(
        "concept_ancestor",
        ancestor_concept_id=201820,
        descendant_concept_id=45561952,
        min_levels_of_separation=1,
        max_levels_of_separation=1,
    )
    add(
        "concept_ancestor",
        ancestor_concept_id=1503297,
        descendant_concept_id=45561952,
        min_levels_of_separation=2,
        max_levels_of_separation=2,
    )
    return {
        name: pl.DataFrame(
            [{k: None if v == "" else str(v) for k, v in row.items()} for row in rows], infer_schema_length=None
        ).cast(pl.String)
        for name, rows in tables.items()
    }
