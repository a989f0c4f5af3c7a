"""Damaged eICU tables: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import pytest

from ehrjax.ingest import eicu
from ehrjax.ingest import eicu_tables as tables
from tests.ingest import eicu_layout as layout
from tests.ingest.corruption import Case, check, damages, with_cell, write

SOUND = layout.generate(11, people=3)
DECLARED = {table.name: table for table in tables.TABLES}
OUT = "time before 1700 or after 2299"


def own_cases() -> list[Case]:
    found = []
    for timed in tables.TIMED:
        name, frame = timed.table.name, SOUND[timed.table.name]
        for column, value, reason in (
            ("patientunitstayid", None, "no patientunitstayid"),
            ("patientunitstayid", "7", "patientunitstayid not in patient"),
            (timed.offset, None, "no offset"),
        ):
            changed = with_cell(frame, column, value)
            found.append(Case(f"{name}: {column} {value}", "aside", {name: {reason: 1}}, tables={name: changed}))
        if name not in ("vitalPeriodic", "vitalAperiodic", "microLab"):
            changed = with_cell(frame, timed.offset, "999999999")
            found.append(Case(f"{name}: in 1,900 years", "aside", {name: {OUT: 1}}, tables={name: changed}))
    doubled = with_cell(SOUND["patient"], "patientunitstayid", SOUND["patient"]["patientunitstayid"][1])
    found.append(Case("patient: a number twice", "error", "already stands on line", tables={"patient": doubled}))
    return found


CASES = [*damages(SOUND, DECLARED), *own_cases()]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(Case("", "same"), SOUND, {}, folder / "raw")
    return folder / "meds", eicu.read(folder / "raw", folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    write(case, SOUND, {}, tmp_path / "raw")
    check(case, eicu.read, *sound, tmp_path / "raw", tmp_path / "meds")
