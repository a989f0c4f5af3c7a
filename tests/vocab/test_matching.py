"""Tokens of two vocabularies: matched exactly, by a table, by normalised code, by hierarchy, and by nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ehrjax.core.errors import InputError
from ehrjax.vocab import matching
from ehrjax.vocab.recipe import SPECIALS


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("DIAGNOSIS//ICD10CM//E11.65", ("diagnosis", "e1165")),
        ("ICD10:E11.65", ("diagnosis", "e1165")),
        ("dx|e11-65", ("diagnosis", "e1165")),
        ("E11.65", ("", "e1165")),
        ("LAB//50912//mg/dL//Q3", ("measurement", "50912")),
        ("LOINC:718-7:20-30", ("measurement", "7187")),
        ("NDC//00071-0155-23", ("drug", "000710155")),
        ("Something//X1", ("something", "x1")),
        ("Größe µ", ("", "größeµ")),
    ],
)
def test_normalised(token: str, expected: tuple[str, str]) -> None:
    assert matching.normalised(token) == expected


def told(wanted: list[str], there: list[str], **how) -> list[tuple[str | None, str | None]]:
    return matching.match(wanted, there, **how).select("source", "how").rows()


def test_each_way_in_turn() -> None:
    there = ["[PAD]", "ICD10:E11.65", "ICD10:I10", "E11.6", "LAB//718", "DRUG//718"]
    assert told(["ICD10:I10"], there) == [("ICD10:I10", "exact")]
    assert told(["DIAGNOSIS//ICD10CM//I10"], there) == [("ICD10:I10", "normalised")]
    assert told(["DIAGNOSIS//ICD10CM//E11.659"], there) == [("ICD10:E11.65", "hierarchy")]
    assert told(["DIAGNOSIS//ICD10CM//E11.69"], there) == [("E11.6", "hierarchy")]
    assert told(["mine"], there, mapping={"mine": "E11.6"}) == [("E11.6", "map")]
    assert told(["MEASUREMENT//718"], there) == [("LAB//718", "normalised")], "a lab is no drug"
    assert told(["PROCEDURE//718"], there) == told(["MINE//718"], there) == [(None, None)]
    assert told(["718"], there) == [("LAB//718", "normalised")], "a bare code may be any"
    assert told(["[PAD]", "[MASK]"], there) == [("[PAD]", "exact"), (None, None)]
    assert told(["DIAGNOSIS//ICD10CM//I10"], there, ways=("exact",)) == [(None, None)]
    with pytest.raises(InputError, match="not matched by 'guess'"):
        matching.match(["a"], there, ways=("guess",))
    with pytest.raises(InputError, match="which is not in the other"):
        matching.match(["mine"], there, mapping={"mine": "yours"})


def test_coverage_is_by_token_and_by_occurrence() -> None:
    found = matching.match([*SPECIALS, "a", "ICD10:I10", "z"], [*SPECIALS, "a", "I10"])
    share = matching.coverage(found, [0] * 5 + [70, 20, 10])
    assert share["exact"] == {"tokens": 1 / 3, "occurrences": 0.7}
    assert share["normalised"] == {"tokens": 1 / 3, "occurrences": 0.2}
    assert share["all"] == {"tokens": 2 / 3, "occurrences": pytest.approx(0.9)}


@given(
    st.lists(st.text(max_size=12), unique=True, max_size=20), st.lists(st.text(max_size=12), unique=True, max_size=20)
)
def test_every_answer_is_there_and_exact_ones_win(wanted: list[str], there: list[str]) -> None:
    found = matching.match(wanted, there)
    assert found["str"].to_list() == wanted
    for token, source, how in found.rows():
        assert (source is None) == (how is None) and (source is None or source in there)
        if token in there:
            assert (source, how) == (token, "exact")


def test_a_mapping_is_a_csv_of_two_columns(tmp_path) -> None:
    (tmp_path / "m.csv").write_text('code,to\n"a,b",x\nc,\n')
    assert matching.read_mapping(tmp_path / "m.csv") == {"a,b": "x"}
    for text, message in (("code\na\n", "columns code and to"), ("code,to\na,x\na,y\n", "'a' more than once")):
        (tmp_path / "m.csv").write_text(text)
        with pytest.raises(InputError, match=message):
            matching.read_mapping(tmp_path / "m.csv")
    with pytest.raises(InputError, match="does not exist"):
        matching.read_mapping(tmp_path / "none.csv")
