"""Damaged MIMIC-III tables: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import pytest

from ehrjax.ingest import mimic_iii
from ehrjax.ingest import mimic_iii_tables as tables
from tests.ingest import mimic_iii_layout as layout
from tests.ingest.corruption import Case, check, damages, with_cell, write

SOUND = layout.generate(11, patients=3)
DECLARED = {table.name: table for table in tables.TABLES}
OUT = "time before 1700 or after 2299"


def own_cases() -> list[Case]:
    found = []
    for name, table in DECLARED.items():
        frame = SOUND[name]
        if name == "patients":
            continue
        for value, reason in ((None, "no subject_id"), ("99", "subject not in patients")):
            changed = with_cell(frame, "subject_id", value)
            if name != "admissions":
                detail = {name: {reason: 1}}
                found.append(Case(f"{name}: subject {value}", "aside", detail, tables={name: changed}))
        if tables.BILLED[2] in table.set_aside:
            for value, reason in ((None, "no hadm_id"), ("7", "hadm_id not among the subject's admissions")):
                changed = with_cell(frame, "hadm_id", value)
                found.append(Case(f"{name}: hadm_id {value}", "aside", {name: {reason: 1}}, tables={name: changed}))
    for name, column in (
        ("labevents", "charttime"),
        ("chartevents", "charttime"),
        ("outputevents", "charttime"),
        ("inputevents_cv", "charttime"),
        ("procedureevents_mv", "starttime"),
        ("services", "transfertime"),
    ):
        for year in ("9999", "0001", "1699"):
            changed = with_cell(SOUND[name], column, f"{year}-01-01 08:00:00")
            found.append(Case(f"{name}: year {year}", "aside", {name: {OUT: 1}}, tables={name: changed}))
        changed = with_cell(SOUND[name], column, None)
        found.append(Case(f"{name}: no {column}", "aside", {name: {"no time": 1}}, tables={name: changed}))
    for name, key in (("patients", "subject_id"), ("admissions", "hadm_id")):
        doubled = with_cell(SOUND[name], key, SOUND[name][key][1])
        found.append(Case(f"{name}: a number twice", "error", "already stands on line", tables={name: doubled}))
    return found


CASES = [*damages({name: SOUND[name] for name in DECLARED}, DECLARED), *own_cases()]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(Case("", "same"), SOUND, {}, folder / "raw")
    return folder / "meds", mimic_iii.read(folder / "raw", folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    write(case, SOUND, {}, tmp_path / "raw")
    check(case, mimic_iii.read, *sound, tmp_path / "raw", tmp_path / "meds")
