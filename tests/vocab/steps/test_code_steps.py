"""Steps that change or leave out codes: filters, tables, cuts, units."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.ingest.meds import EVENT_SCHEMA
from ehrjax.vocab.steps.merge_units import factor_between
from tests.vocab.steps.histories import CODES, histories, run


def coded(codes: list[str], values: list[float | None] | None = None) -> pl.DataFrame:
    rows = [(1, i, code, (values or [None] * len(codes))[i], None, None) for i, code in enumerate(codes)]
    frame = pl.DataFrame(rows, schema={**EVENT_SCHEMA, "time": pl.Int64}, orient="row")
    return frame.cast({"time": pl.Datetime("us")}).drop("text_value")


@given(
    histories(), st.lists(st.sampled_from(["DX", "LAB//a", ".*1$", "Größe"]), max_size=2, unique=True), st.booleans()
)
def test_filtering_is_by_each_code(events: pl.DataFrame, patterns: list[str], keep: bool) -> None:
    rows = run(events, "filter_codes", filter_codes={"keep" if keep else "drop": tuple(patterns)})
    matched = [any(re.match(pattern, code) for pattern in patterns) for code in events["code"]]
    wanted = [not patterns or found is keep for found in matched]
    expected = events.filter(pl.Series(wanted, dtype=pl.Boolean))
    assert rows.select(events.columns).equals(expected)


def table(folder: Path, rows: str) -> str:
    path = folder / "map.csv"
    path.write_text("source,target\n" + rows)
    return str(path)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ["ICD9//25000", "ICD10//E11.9", "ICD9//999", "LAB//25000"]),
        ({"drop_dots": True}, ["ICD10//E11.9", "ICD10//E11.9", "ICD9//999", "LAB//25000"]),
        ({"missing": "drop"}, ["ICD10//E11.9", "LAB//25000"]),
        ({"several": "all"}, ["ICD9//25000", "ICD10//E11.9", "ICD10//E11.65", "ICD9//999", "LAB//25000"]),
        ({"several": "none"}, ["ICD9//25000", "ICD9//250.00", "ICD9//999", "LAB//25000"]),
        ({"new_family": ""}, ["ICD9//25000", "E11.9", "ICD9//999", "LAB//25000"]),
    ],
)
def test_codes_by_a_table(settings: dict, expected: list[str], tmp_path: Path) -> None:
    events = coded(["ICD9//25000", "ICD9//250.00", "ICD9//999", "LAB//25000"])
    path = table(tmp_path, "250.00,E11.9\n250.00,E11.65\n250.00,E11.9\n,X\n1,\n")
    rows = run(events, "map_codes", map_codes={"table": path, "family": "ICD9", "new_family": "ICD10", **settings})
    assert rows["code"].to_list() == expected
    assert rows["time"].is_sorted()


def test_whole_codes_by_a_table(tmp_path: Path) -> None:
    path = table(tmp_path, "DX//1,GROUP//a\n")
    rows = run(
        coded(["DX//1", "DX//2"]),
        "map_codes@first",
        "map_codes",
        **{"map_codes@first": {"table": path}, "map_codes": {"table": path, "missing": "drop"}},
    )
    assert rows["code"].to_list() == [], "the second table knows neither GROUP//a nor DX//2"


@pytest.mark.data
def test_icd9_by_the_real_gem(data_folder: Path) -> None:
    gem = data_folder / "code-tables" / "gem_icd9cm_to_icd10cm.csv.gz"
    columns = pl.read_csv(gem, n_rows=1).columns
    settings = {"table": str(gem), "source": columns[0], "target": columns[1], "family": "ICD9", "new_family": "ICD10"}
    rows = run(coded(["ICD9//25000", "ICD9//4019"]), "map_codes", map_codes={**settings, "drop_dots": True})
    assert [code.replace(".", "") for code in rows["code"]] == ["ICD10//E119", "ICD10//I10"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"table": "/nowhere.csv"}, "/nowhere.csv does not exist"),
        ({}, "table is empty"),
        ({"table": "here", "source": "code"}, "has no column 'code'; it has source, target"),
        ({"table": "here", "missing": "lose"}, "missing is 'lose'"),
        ({"table": "here", "several": "some"}, "several is 'some'"),
    ],
)
def test_bad_tables(settings: dict, message: str, tmp_path: Path) -> None:
    if settings.get("table") == "here":
        settings = {**settings, "table": table(tmp_path, "1,2\n")}
    with pytest.raises(InputError, match=message):
        run(coded(["DX//1"]), "map_codes", map_codes=settings)


def test_cutting_codes() -> None:
    events = coded(["ICD10CM//E11.65", "ICD10CM//E1", "NDC//0002-8215-01", "NDC//0002-8215-01//mg", "X//E11.65"])
    rows = run(
        events,
        "truncate_codes",
        "truncate_codes@ndc",
        **{
            "truncate_codes": {"family": "ICD10CM", "length": 3},
            "truncate_codes@ndc": {"family": "NDC", "length": 8},
        },
    )
    assert rows["code"].to_list() == ["ICD10CM//E11", "ICD10CM//E1", "NDC//00028215", "NDC//00028215//mg", "X//E11.65"]


@given(st.text(alphabet="AE1.", max_size=9))
def test_split_levels_hold_the_whole_code(text: str) -> None:
    rows = run(coded([f"ICD//{text}"]), "split_codes", split_codes={"family": "ICD", "lengths": (3, 3)})
    parts = [code.rsplit("//", 1)[1] for code in rows["str"]]
    assert "".join(parts) == text.replace(".", "")
    assert len(parts) == 1 or all(parts) and len(parts[0]) == 3
    assert rows["str"].to_list()[1:] == [f"ICD//{n}//{p}" for n, p in zip(("3-6", "SFX"), parts[1:])]


def test_values_in_one_unit() -> None:
    codes = ["LAB//glu//mg/dL"] * 5 + ["LAB//glu//g/L"] * 2 + ["LAB//glu//mmol/L", "LAB//temp//degF", "LAB//temp//degC"]
    events = coded(codes, [90, 91, 92, 93, 94, 0.9, None, 5.0, 98.6, 37.0])
    rows = run(events, "merge_units")
    assert rows["code"].to_list() == ["LAB//glu//mg/dL"] * 7 + [
        "LAB//glu//mmol/L",
        "LAB//temp//degF",
        "LAB//temp//degC",
    ]
    assert rows["numeric_value"].to_list()[:7] == [90, 91, 92, 93, 94, 90, None], "g/L to mg/dL"
    assert rows["numeric_value"].to_list()[7:] == events["numeric_value"].to_list()[7:]


def test_a_table_knows_what_depends_on_the_substance(tmp_path: Path) -> None:
    path = tmp_path / "units.csv"
    path.write_text("code,unit,to,factor\nglu,mmol/L,mg/dL,18.016\n")
    events = coded(["LAB//glu//mg/dL"] * 2 + ["LAB//glu//mmol/L", "LAB//na//mmol/L"], [90, 91, 5, 140])
    rows = run(events, "merge_units", merge_units={"table": str(path)})
    assert rows["code"].to_list() == ["LAB//glu//mg/dL"] * 3 + ["LAB//na//mmol/L"]
    assert rows["numeric_value"][2] == pytest.approx(90.08)
    with pytest.raises(InputError, match="does not exist"):
        run(events, "merge_units", merge_units={"table": "/nowhere.csv"})
    path.write_text("code,unit,to\n")
    with pytest.raises(InputError, match="needs the columns code, unit, to and factor"):
        run(events, "merge_units", merge_units={"table": str(path)})


@pytest.mark.parametrize(
    ("unit", "to", "factor"),
    [
        ("g/dL", "g/L", 10),
        ("K/uL", "10^3/uL", 1),
        ("%", "g/dL", None),
        ("K/uL", "1000/uL", 1),
        ("mm Hg", "kPa", 0.133322),
        ("mEq/L", "mmol/L", 1),
        ("mg", "mL", None),
        ("degC", "degF", None),
        ("", "mg", None),
        ("import os", "mg", None),
    ],
)
def test_factors(unit: str, to: str, factor: float | None) -> None:
    found = factor_between(unit, to)
    assert found is None if factor is None else found == pytest.approx(factor, rel=1e-4)


@given(histories(codes=CODES))
def test_values_without_other_units_stay(events: pl.DataFrame) -> None:
    assert run(events, "merge_units").select(events.columns).equals(events)


def test_days_end_when_they_are_known() -> None:
    rows = run(
        coded(["A", "B"]).with_columns(time=pl.Series([0, 86_400_000_000 - 1]).cast(pl.Datetime("us"))), "day_times"
    )
    assert rows["time"].to_physical().to_list() == [86_400_000_000 - 1] * 2
    old = coded(["A"]).with_columns(time=pl.Series([-5]).cast(pl.Datetime("us")))
    assert run(old, "day_times")["time"].to_physical().to_list() == [-1]
