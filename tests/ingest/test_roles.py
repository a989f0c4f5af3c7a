"""Roles: what the readers' codes mean, what a dataset says itself, and what is refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import meds, mimic_iv, roles
from ehrjax.ingest.synthetic.record import codes as written
from tests.ingest import mimic_iv_layout as layout


def dataset(**metadata: object) -> meds.MedsDataset:
    return meds.MedsDataset(Path("there"), [], pl.DataFrame(), pl.DataFrame({"code": []}), dict(metadata))


def families(codes: pl.Series, patterns: tuple[str, ...]) -> set[str]:
    return {meds.family(code) for code in codes.filter(roles.matching(codes, patterns))}


def test_the_defaults_cover_the_synthetic_hospital() -> None:
    codes, found = pl.Series(list(written())), roles.of(dataset())
    assert families(codes, found.get("diagnosis")) == {"ICD10CM"}
    assert families(codes, found.get("medication")) == {"RXNORM"}
    assert families(codes, found.get("lab")) == {"LOINC"}
    assert codes.filter(roles.matching(codes, found.get("admission"))).to_list() == ["ENCOUNTER//INPATIENT"]
    assert codes.filter(roles.matching(codes, found.get("discharge_dead"))).to_list() == ["DISCHARGE//DIED"]
    assert families(codes, found.get("discharge")) == {"DISCHARGE"}
    # What a source says of itself means the same on its own codes.
    for name, patterns in roles.SYNTHETIC.items():
        assert roles.matching(codes, patterns).equals(roles.matching(codes, found.get(name))), name


def test_the_defaults_cover_mimic_iv(tmp_path: Path) -> None:
    mimic_iv.read(layout.write(layout.generate(2), tmp_path / "raw"), tmp_path / "events")
    opened = meds.open_dataset(tmp_path / "events")
    codes, found = opened.codes["code"], roles.of(opened)
    for name, family in (
        ("admission", {"HOSPITAL_ADMISSION"}),
        ("discharge", {"HOSPITAL_DISCHARGE"}),
        ("icu_admission", {"ICU_ADMISSION"}),
        ("icu_discharge", {"ICU_DISCHARGE"}),
        ("diagnosis", {"DIAGNOSIS"}),
        ("medication", {"MEDICATION"}),
        ("lab", {"LAB"}),
    ):
        assert families(codes, found.get(name)) == family
    for name, patterns in roles.MIMIC_IV.items():
        assert roles.matching(codes, patterns).equals(roles.matching(codes, found.get(name))), name


def test_user_over_dataset_over_defaults() -> None:
    opened = dataset(roles={"admission": ["A$"], "mine": ["M"]})
    found = roles.of(opened, {"discharge": ["D"], "admission": []})
    assert found.get("admission") == ("A$",) and found.get("discharge") == ("D",) and found.get("mine") == ("M",)
    assert found.get("lab") == tuple(roles.DEFAULTS["lab"]) and found.get("outpatient") == ("ENCOUNTER//OUTPATIENT$",)
    assert roles.of(opened, {"mine": "N"}).get("mine") == ("N",)


def test_patterns_match_from_the_start_and_none_matches_nothing() -> None:
    codes = pl.Series(["AB", "BA", "B", "", "ünï"])
    assert roles.matching(codes, ("A|B$",)).to_list() == [True, False, True, False, False]
    assert roles.matching(codes, ()).to_list() == [False] * 5
    assert roles.matching(codes, ("ü",)).to_list() == [False] * 4 + [True]


def test_a_lacking_role_says_how_to_give_it() -> None:
    found = roles.of(dataset())
    with pytest.raises(InputError, match=r"task t needs codes of the role 'ward'.*--config.roles.ward"):
        found.need("ward", task="t")
    with pytest.raises(InputError, match="'icu_admission' .intensive care begins.*no code matches"):
        found.need("icu_admission", task="t", codes=pl.Series(["X"]))
    assert found.need("icu_admission", task="t", codes=pl.Series(["ICU_ADMISSION//X"]))


@pytest.mark.parametrize(
    ("metadata", "overrides", "message"),
    [
        ({"roles": []}, {}, "must be an object"),
        ({"roles": {"lab": 3}}, {}, "'lab' must be a list"),
        ({"roles": {"lab": [3]}}, {}, "'lab' must be a list"),
        ({"roles": {"lab": ["("]}}, {}, "no regular expression"),
        ({}, {"diagnoses": ["X"]}, "did you mean 'diagnosis'"),
        ({}, {"lab": ["(?=x)"]}, "config.roles.lab holds"),
        ({}, {"lab": [""]}, "must be a list"),
    ],
)
def test_refused(metadata: dict, overrides: dict, message: str) -> None:
    with pytest.raises(InputError) as error:
        roles.of(dataset(**metadata), overrides)
    assert message in str(error.value)
