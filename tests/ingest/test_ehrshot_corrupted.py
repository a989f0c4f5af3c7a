"""Damaged EHRSHOT files: each case says beforehand what must come of it, and gets it."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ehrjax.ingest import ehrshot
from ehrjax.ingest.raw_tables import Table, columns_of
from tests.ingest import ehrshot_layout as layout
from tests.ingest.corruption import Case, check, damages, with_cell, write

SOUND = layout.generate(11)
SPLITS = Table("person_id_map", "splits", columns_of(ids="omop_person_id", texts="split"), (), 0, "")
EVENTS = Table("ehrshot", "data", ehrshot.EHRSHOT.columns, (), 0, "", required=True, optional={
    name: kind for name, kind in ehrshot.EHRSHOT.optional.items() if name != "number"})  # fmt: skip
# The first row is a birth, so of the rows that give an event of their own this is one.
ROW = next(i for i, row in enumerate(SOUND["ehrshot"].to_dicts()) if row["omop_table"] == "drug_exposure")


def own_cases() -> list[Case]:
    frame, splits = SOUND["ehrshot"], SOUND["person_id_map"]
    found = []
    rows = [
        i for i, row in enumerate(frame.to_dicts()) if row["omop_table"] in ("drug_exposure", "note", "measurement")
    ]
    for row in rows[:15]:
        for column in ("patient_id", "code", "start"):
            found.append(
                Case(f"no {column} in row {row}", "aside", {"ehrshot": {f"no {column}": 1}},
                     tables={"ehrshot": with_cell(frame, column, None, row)})
            )  # fmt: skip
        for year in ("9999", "0001", "1699"):
            changed = with_cell(frame, "start", f"{year}-01-01 00:00:00", row)
            reason = {"ehrshot": {"time before 1700 or after 2299": 1}}
            found.append(Case(f"year {year} in row {row}", "aside", reason, tables={"ehrshot": changed}))
        found.append(
            Case(f"text in row {row}", "error", f"line {row + 2}: the value",
                 tables={"ehrshot": with_cell(frame, "patient_id", "x", row)})
        )  # fmt: skip
        found.append(
            Case(f"an infinite value in row {row}", "fine", None,
                 tables={"ehrshot": with_cell(frame, "value", "inf", row)})
        )  # fmt: skip
    for value in (None, "validation", "TRAIN"):
        changed = with_cell(splits, "split", value)
        found.append(Case(f"split is {value}", "error", "a split", tables={"person_id_map": changed}))
    changed = with_cell(splits, "omop_person_id", None)
    found.append(Case("split without a person", "error", "data row 1", tables={"person_id_map": changed}))
    changed = with_cell(splits, "omop_person_id", splits["omop_person_id"][1])
    found.append(Case("a person twice", "error", "more than once", tables={"person_id_map": changed}))
    found.append(Case("splits: only a header", "error", "no rows", tables={"person_id_map": splits.clear()}))
    packed = pa.compress(frame.write_csv().encode(), codec="zstd", asbytes=True)
    for cut in np.linspace(4, len(packed) - 1, 20).astype(int):
        raw = {"data/ehrshot.csv.zst": packed[:cut]}
        found.append(Case(f"zstd cut at {cut}", "error", "ehrshot.csv.zst", raw=raw, without=("ehrshot",)))
    return found


CASES = [
    case
    for case in damages(SOUND, {"ehrshot": EVENTS, "person_id_map": SPLITS}, layout.PLACES)
    # Other splits mean other files; the split itself is tested below and in test_ehrshot.
    if case.name not in ("person_id_map: absent", "person_id_map: header only")
] + own_cases()


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200 and len({case.name for case in CASES}) == len(CASES)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound")
    write(Case("", "same"), SOUND, layout.PLACES, folder / "raw")
    return folder / "meds", ehrshot.read(folder / "raw", folder / "meds")


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_each_damage_has_the_outcome_that_was_stated(case: Case, sound, tmp_path) -> None:
    write(case, SOUND, layout.PLACES, tmp_path / "raw")
    check(case, ehrshot.read, *sound, tmp_path / "raw", tmp_path / "meds")
