"""Damaged OMOP tables: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import pytest

from ehrjax.ingest import omop
from ehrjax.ingest import omop_tables as tables
from ehrjax.ingest.omop_concepts import TABLES
from tests.ingest import omop_layout as layout
from tests.ingest.corruption import Case, check, damages, with_cell, write

SOUND = layout.generate(11, persons=3)
DECLARED = {table.name: table for table in (*tables.TABLES, *TABLES)}
OUT = "time before 1700 or after 2299"


def own_cases() -> list[Case]:
    found = []
    for name in DECLARED:
        if "person_id" in SOUND[name].columns and name != "person":
            for value, reason in (
                (None, "no person_id"),
                ("99", "person_id not in person"),
                ("-5", "person_id not in person"),
            ):
                found.append(
                    Case(
                        f"{name}: person_id is {value}",
                        "aside",
                        {name: {reason: 1}},
                        tables={name: with_cell(SOUND[name], "person_id", value)},
                    )
                )
    for name, column in (
        ("drug_exposure", "drug_exposure_start"),
        ("measurement", "measurement"),
        ("observation", "observation"),
        ("specimen", "specimen"),
        ("device_exposure", "device_exposure_start"),
    ):
        for year in ("9999", "0001", "1699"):
            changed = with_cell(SOUND[name], f"{column}_date", f"{year}-01-01")
            changed = with_cell(changed, f"{column}_datetime", None)
            found.append(Case(f"{name}: year {year}", "aside", {name: {OUT: 1}}, tables={name: changed}))
        gone = with_cell(with_cell(SOUND[name], f"{column}_date", None), f"{column}_datetime", None)
        found.append(Case(f"{name}: no date", "aside", {name: {"no date": 1}}, tables={name: gone}))
    for name, key in (("person", "person_id"), ("visit_occurrence", "visit_occurrence_id")):
        doubled = with_cell(SOUND[name], key, SOUND[name][key][1])
        found.append(Case(f"{name}: a number twice", "error", "already stands on line", tables={name: doubled}))
    empty = SOUND["drug_exposure"]
    for column in ("drug_concept_id", "drug_source_concept_id", "drug_source_value"):
        empty = with_cell(empty, column, None)
    reason = {"drug_exposure": {"neither concept nor source value": 1}}
    found.append(Case("drug_exposure: no drug", "aside", reason, tables={"drug_exposure": empty}))
    twice = SOUND["death"].vstack(SOUND["death"])
    reason = {"death": {"repeats an earlier death of the person": len(SOUND["death"])}}
    found.append(Case("death: twice each", "aside", reason, tables={"death": twice}))
    return found


CASES = [*damages(SOUND, DECLARED), *own_cases()]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(Case("", "same"), SOUND, {}, folder / "raw")
    return folder / "meds", omop.read(folder / "raw", folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    write(case, SOUND, {}, tmp_path / "raw")
    check(case, omop.read, *sound, tmp_path / "raw", tmp_path / "meds")
