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
        ("DIAGNOSIS//ICD10CM//E11.65", ("ICD10CM", "e1165", "", "")),
        ("DIAGNOSIS//ICD//10//E1165", ("ICD10CM", "e1165", "", "")),
        ("DIAGNOSIS//ICD//9//25000", ("ICD9CM", "25000", "", "")),
        ("DIAGNOSIS//ICD//486", ("ICD9CM", "486", "", "")),
        ("PROCEDURE//ICD//10//0DTJ4ZZ", ("ICD10PCS", "0dtj4zz", "", "")),
        ("PROCEDURE//ICD//9//3893", ("ICD9PROC", "3893", "", "")),
        ("PROCEDURE//ICD9PCS//38.93", ("ICD9PROC", "3893", "", "")),
        ("ICD-10-CM:E11.65", ("ICD10CM", "e1165", "", "")),
        ("dx|e11-65", ("ICD10CM", "e1165", "", "")),
        ("DX//E1165", ("ICD10CM", "e1165", "", "")),
        ("DX//E850", ("diagnosis", "e850", "", "")),
        ("DX//V10.3", ("diagnosis", "v10.3", "", "")),
        ("CONDITION//201826", ("diagnosis", "201826", "", "")),
        ("E11.65", ("ICD10CM", "e1165", "", "")),
        ("E850.1", ("ICD9CM", "e8501", "", "")),
        ("V10.3", ("", "v10.3", "", "")),
        ("M12", ("", "m12", "", "")),
        ("250.00", ("", "250.00", "", "")),
        ("LAB//50912//mg/dL//Q3", ("measurement", "50912", "mg/dl", "Q3")),
        ("LAB//50912//UNK", ("measurement", "50912", "", "")),
        ("LAB//718-7", ("LOINC", "7187", "", "")),
        ("LOINC:718-7:20-30", ("LOINC", "7187//20-30", "", "")),
        ("LOINC//718-7//HIGH", ("LOINC", "7187//high", "", "")),
        ("LAB//MEASUREMENT//x", ("measurement", "measurement//x", "", "")),
        ("NDC//00071-0155-23", ("NDC", "000710155", "", "")),
        ("RX//0071-0155-40", ("NDC", "000710155", "", "")),
        ("SNOMED//10692761000", ("SNOMED", "10692761000", "", "")),
        ("MEDICATION//START//Warfarin 1.5 mg", ("drug", "start//warfarin 1.5 mg", "", "")),
        ("Something//X1", ("something", "x1", "", "")),
        ("ALLERGY//RXNORM//1191", ("allergy", "rxnorm//1191", "", "")),
        ("Größe  µ", ("", "größe µ", "", "")),
    ],
)
def test_normalised(token: str, expected: tuple[str, str, str, str]) -> None:
    assert matching.normalised(token) == expected


def told(wanted: list[str], there: list[str], **how) -> list[tuple[str | None, str | None]]:
    return matching.match(wanted, there, **how).select("source", "how").rows()


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        # What stands behind a first qualifier is a part of the code.
        ("DRG//HCFA//470", "DRG//HCFA//291"),
        ("MICROBIOLOGY//ORGANISM//ESCHERICHIA COLI", "MICROBIOLOGY//ORGANISM//CANDIDA ALBICANS"),
        ("TRANSFER//admit//Emergency Department", "TRANSFER//admit//Medicine"),
        ("DIAGNOSIS//ICD//10//E119", "DIAGNOSIS//ICD//10//I10"),
        ("PROCEDURE//ICD//9//3893", "PROCEDURE//ICD//9//0045"),
        ("MEDICATION//START//Aspirin", "MEDICATION//START//Warfarin"),
        ("MEDICATION//Warfarin 1.5 mg", "MEDICATION//Warfarin 15 mg"),
        ("DIAGNOSIS//ICD10CM//E11.65//PRIMARY", "DIAGNOSIS//ICD10CM//E11.65"),
        # Bins and units.
        ("LOINC//2160-0//mg/dL//Q1", "LOINC//2160-0//mg/dL//Q10"),
        ("LOINC//2160-0//mg/dL", "LOINC//2160-0//mg/dL//Q1"),
        ("LOINC//2160-0//mg/dL", "LOINC//2160-0//mmol/L"),
        ("LOINC//2160-0", "LOINC//2160-0//HIGH"),
        # Systems, kinds and bare codes.
        ("DIAGNOSIS//ICD10CM//E85.0", "DIAGNOSIS//ICD9CM//E850"),
        ("ICD10CM//V10.3", "ICD9CM//V10.3"),
        ("DIAGNOSIS//ICD//10//V103", "DIAGNOSIS//ICD//9//V103"),
        ("DX//V10.3", "ICD9CM//V10.3"),
        ("SNOMEDCT_US//44054006", "ICD9CM//440"),
        ("CONDITION//201826", "ICD9CM//201"),
        ("201826", "RX//201"),
        ("50912", "LAB//509"),
        ("50912", "LAB//50912"),
        ("RXNORM//1191", "ATC//1191"),
        ("CPT//99213", "ICD9PROC//99213"),
        ("SNOMED//10692761000", "SNOMED//10692761099"),
        ("LAB//7187", "LOINC//718-7"),
        ("M12", "ICD10CM//M12"),
        ("ICD9CM//E850.1", "ICD9CM//E85"),
        ("PROCEDURE//ICD9PCS//38.93", "PROCEDURE//ICD9PCS//38.9"),
    ],
)
def test_other_codes_are_never_alike(wanted: str, there: str) -> None:
    assert told([wanted], [there]) == [(None, None)]
    if not wanted.startswith("LOINC"):
        assert told([there], [wanted]) == [(None, None)]


@pytest.mark.parametrize(
    ("wanted", "there", "how"),
    [
        ("DIAGNOSIS//ICD//10//E119", "ICD10:E11.9", "normalised"),
        ("PROCEDURE//ICD//9//3893", "PROCEDURE//ICD9PCS//38.93", "normalised"),
        ("E11.65", "DIAGNOSIS//ICD10CM//E1165", "normalised"),
        ("MEDICATION//START//Aspirin", "medication//start//aspirin", "normalised"),
        ("NDC//00071-0155-23", "RX//00071-0155-40", "normalised"),
        ("ICD10CM//E11.65", "DX//E11", "hierarchy"),
        ("ICD9CM//250.02", "DIAGNOSIS//ICD//9//250", "hierarchy"),
        ("ICD9CM//E850.1", "ICD9CM//E850", "hierarchy"),
        ("LAB//50912//mg/dL//Q3", "lab//50912//mg/dL//Q3", "normalised"),
        ("LAB//50912//mg/dL", "LAB//50912", "unit"),
        ("LAB//50912", "LAB//50912//mg/dL", "unit"),
        ("LAB//50912//mg/dL//Q3", "LAB//50912//mg/dL", "bin"),
        ("LAB//50912//mg/dL//Q3", "LAB//50912", "bin"),
    ],
)
def test_the_same_code_in_other_words(wanted: str, there: str, how: str) -> None:
    assert told([wanted], [there]) == [(there, how)]
    assert matching.coverage(matching.match([wanted], [there]), [1])[how]["tokens"] == 1


def test_the_nearest_in_unit_and_bin_and_none_of_several_units() -> None:
    there = ["LAB//1//g/L", "LAB//1//mg/dL//Q2", "LAB//1//mg/dL", "LAB//1//mg/dL//Q1"]
    assert told(["LAB//1//mg/dL//Q1", "lab//1//mg/dL//Q1"], there) == [
        ("LAB//1//mg/dL//Q1", "exact"),
        ("LAB//1//mg/dL//Q1", "normalised"),
    ]
    assert told(["LAB//1//Q1", "LAB//1//mg/dL//Q3"], there) == [
        ("LAB//1//mg/dL//Q1", "unit"),
        ("LAB//1//mg/dL", "bin"),
    ]
    assert told(["LAB//1", "LAB//1//Q3"], there) == [(None, None)] * 2


def test_each_way_in_turn() -> None:
    there = ["[PAD]", "ICD10:E11.65", "ICD10:I10", "E11.6", "LAB//718", "DRUG//718"]
    assert told(["ICD10:I10"], there) == [("ICD10:I10", "exact")]
    assert told(["DIAGNOSIS//ICD10CM//I10"], there) == [("ICD10:I10", "normalised")]
    assert told(["DIAGNOSIS//ICD10CM//E11.659"], there) == [("ICD10:E11.65", "hierarchy")]
    assert told(["DIAGNOSIS//ICD10CM//E11.69"], there) == [("E11.6", "hierarchy")]
    assert told(["mine"], there, mapping={"mine": "E11.6"}) == [("E11.6", "map")]
    assert told(["MEASUREMENT//718"], there) == [("LAB//718", "normalised")], "a lab is no drug"
    assert told(["PROCEDURE//718"], there) == told(["MINE//718"], there) == [(None, None)]
    assert told(["[PAD]", "[MASK]"], there) == [("[PAD]", "exact"), (None, None)]
    assert told(["DIAGNOSIS//ICD10CM//I10"], there, ways=("exact",)) == [(None, None)]
    with pytest.raises(InputError, match="not matched by 'guess'"):
        matching.match(["a"], there, ways=("guess",))
    with pytest.raises(InputError, match="which is not in the other"):
        matching.match(["mine"], there, mapping={"mine": "yours"})


def test_coverage_is_by_token_and_by_occurrence() -> None:
    found = matching.match([*SPECIALS, "a", "ICD10:I10", "z"], [*SPECIALS, "a", "DX//I10"])
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
