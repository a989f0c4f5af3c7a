"""Damaged MIMIC-IV tables: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import pytest

from ehrjax.ingest import mimic_iv
from ehrjax.ingest import mimic_iv_tables as tables
from tests.ingest import mimic_iv_layout as layout
from tests.ingest.corruption import Case, check, damages, write

PLACES = {name.split("/")[1]: name.split("/")[0] for name in layout.LAYOUT}
SOUND = {name.split("/")[1]: frame for name, frame in layout.generate(seed=5, patients=4, rows=4).items()}
DECLARED = {table.name: table for table in tables.TABLES}
CASES = damages({name: SOUND[name] for name in DECLARED}, DECLARED, PLACES)


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(Case("", "same"), SOUND, PLACES, folder / "raw")
    return folder / "meds", mimic_iv.read(folder / "raw", folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    write(case, SOUND, PLACES, tmp_path / "raw")
    check(case, mimic_iv.read, *sound, tmp_path / "raw", tmp_path / "meds")
