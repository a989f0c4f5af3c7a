"""Damaged tables of a warehouse: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ehrjax.ingest import tables
from ehrjax.ingest.raw_csv import Kind
from ehrjax.ingest.raw_tables import Table
from tests.conftest import ROOT
from tests.ingest import tables_layout as layout
from tests.ingest.corruption import Case, check, damages, with_cell, write

SOUND = layout.warehouse(11)
TEXT, TIME, ID = Kind.TEXT, Kind.TIME, Kind.ID
# What the mapping makes of the columns, told again.
COLUMNS = {
    "patients": {"patient_id": TEXT, "sex": TEXT, "birth_date": TIME, "death_date": TIME},
    "encounters": {"patient_id": TEXT, "encounter_id": ID, "status": TEXT, "kind": TEXT, "admitted_at": TIME,
                   "discharged_at": TIME, "disposition": TEXT},
    "lab_results": {"patient_id": TEXT, "encounter_id": ID, "taken_at": TIME, "test": TEXT, "test_name": TEXT,
                    "result": TEXT, "unit": TEXT},
    "diagnoses": {"patient_id": TEXT, "encounter_id": ID, "icd10": TEXT},
    "prescriptions": {"patient_id": TEXT, "encounter_id": ID, "ordered_at": TIME, "drug": TEXT},
}  # fmt: skip
DECLARED = {
    name: Table(name, "", columns, (), 0, "", required=name != "prescriptions") for name, columns in COLUMNS.items()
}
OUT = "time before 1700 or after 2299"


def read(input: Path, output: Path) -> dict:
    return tables.read(input, output, tables.Settings(str(ROOT / "configs" / "tables" / "warehouse.yaml")))


def own_cases() -> list[Case]:
    found = []
    for name in ("lab_results", "prescriptions"):
        frame, column = SOUND[name], "taken_at" if name == "lab_results" else "ordered_at"
        for row in range(min(len(frame), 8)):
            for year in ("9999", "0001", "1699"):
                changed = with_cell(frame, column, f"{year}-06-01 10:00:00", row)
                found.append(Case(f"{name}: {year} in {row}", "aside", {name: {OUT: 1}}, tables={name: changed}))
            changed = with_cell(frame, "patient_id", None, row)
            found.append(Case(f"{name}: nobody in {row}", "aside", {name: {"no subject": 1}}, tables={name: changed}))
            changed = with_cell(frame, column, None, row)
            reason = {name: {"nothing to record": 1}}
            found.append(Case(f"{name}: never in {row}", "aside", reason, tables={name: changed}))
    doubled = with_cell(SOUND["encounters"], "encounter_id", SOUND["encounters"]["encounter_id"][1])
    found.append(Case("encounters: a number twice", "error", "already stands on line", tables={"encounters": doubled}))
    found.append(Case("no titles", "error", "descriptions name it", without=("icd10_titles",)))
    titles = SOUND["icd10_titles"].drop("title")
    found.append(Case("titles without their column", "error", "'title'", tables={"icd10_titles": titles}))
    return found


CASES = [
    case
    for case in damages({name: SOUND[name] for name in DECLARED}, DECLARED)
    # A required table may be there without rows.
    if not case.name.endswith("header only")
] + own_cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(Case("", "same"), SOUND, {}, folder / "raw")
    return folder / "meds", read(folder / "raw", folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    write(case, SOUND, {}, tmp_path / "raw")
    check(case, read, *sound, tmp_path / "raw", tmp_path / "meds")
