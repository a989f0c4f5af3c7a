"""Groups are what the events say by the prediction time, however the source spells it."""

from __future__ import annotations

import datetime
import json

import numpy as np
import polars as pl
import pytest

from ehrjax.core.errors import InputError
from ehrjax.evals.baselines import subject_groups
from ehrjax.evals.baselines.subject_groups import UNKNOWN, groups
from ehrjax.ingest import cehr_bert_concepts, ehrshot, eicu_tables, uci_diabetes130_tables, yaib
from ehrjax.ingest.meds import open_dataset
from tests.evals.baselines import recount
from tests.evals.baselines.recount import START

DAY, INSTANT = datetime.timedelta(days=1), datetime.timedelta(microseconds=1)


def one(folder, codes: list[tuple[datetime.datetime | None, str]], roles: dict | None = None, days: int = 10) -> dict:
    """The groups of one subject `days` days after START."""
    recount.write(folder, [(1, time, code, None, None) for time, code in codes])
    if roles:
        path = folder / "metadata" / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"roles": roles}))
    found = groups(open_dataset(folder), recount.labels([(1, START + days * DAY, "train")]))
    return {name: values[0] for name, values in found.items()}


# (roles of the source, its codes, sex, race, ethnicity, insurance): one for each reader that tells any of them.
SOURCES = {
    "synthetic": (None, ["GENDER//F", "RACE//BLACK", "INSURANCE//NONE"], "female", "BLACK", UNKNOWN, "NONE"),
    "mimic": (
        None,
        ["GENDER//M", "RACE//WHITE - RUSSIAN", "INSURANCE//Medicare"],
        "male",
        "WHITE - RUSSIAN",
        UNKNOWN,
        "Medicare",
    ),
    "uci": (
        uci_diabetes130_tables.ROLES,
        ["GENDER//Female", "RACE//AfricanAmerican", "INSURANCE//MC"],
        "female",
        "AfricanAmerican",
        UNKNOWN,
        "MC",
    ),
    "eicu": (eicu_tables.ROLES, ["GENDER//Male", "RACE//Caucasian"], "male", "Caucasian", UNKNOWN, UNKNOWN),
    "yaib": (yaib.ROLES, ["GENDER//Female"], "female", UNKNOWN, UNKNOWN, UNKNOWN),
    "cehr_bert": (cehr_bert_concepts.ROLES, ["GENDER//8507", "RACE//8527"], "male", "8527", UNKNOWN, UNKNOWN),
    "omop": (
        None,
        ["GENDER//F", "RACE//5", "ETHNICITY//Not Hispanic"],
        "female",
        "5",
        "Not Hispanic",
        UNKNOWN,
    ),
    "ehrshot": (
        ehrshot.ROLES,
        ["GENDER//M", "RACE//Race//4", "ETHNICITY//Hispanic"],
        "male",
        "Race//4",
        "Hispanic",
        UNKNOWN,
    ),
    "others": (
        {"female": ["Gender/F"], "male": ["Gender/M"]},
        ["Gender/F", "Race/5", "Ethnicity/Hispanic", "Insurance//Private"],
        "female",
        "5",
        "Hispanic",
        "Private",
    ),
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("static", [True, False])
def test_every_source_is_understood(tmp_path, source, static):
    roles, codes, *expected = SOURCES[source]
    rows = [(None if static else START, code) for code in ["INSURANCE_CLAIM//1", "TRACE//2", *codes, "RACE"]]
    found = one(tmp_path, rows, roles)
    assert [found[name] for name in ("sex", "race", "ethnicity", "insurance")] == expected


def test_the_latest_by_the_prediction_time_holds(tmp_path):
    told = [
        (None, "INSURANCE//static"),
        (START + 2 * DAY, "INSURANCE//two"),
        (START + 5 * DAY, "INSURANCE//five"),
        (START + 5 * DAY, "LAB//1"),
        (START + 10 * DAY + INSTANT, "INSURANCE//late"),
        (START + 10 * DAY + INSTANT, "GENDER//F"),
    ]
    for days, expected in ((1, "static"), (2, "two"), (4, "two"), (5, "five"), (10, "five"), (11, "late")):
        found = one(tmp_path / str(days), told, days=days)
        assert found["insurance"] == expected
        assert found["sex"] == ("female" if days == 11 else UNKNOWN)
    assert one(tmp_path / "none", told[1:], days=1)["insurance"] == UNKNOWN


def test_a_subject_tells_nothing_of_the_next(tmp_path):
    events = [
        (1, START, "INSURANCE//one", None, None),
        (2, START, "plain", None, None),
        (3, None, "RACE//B", None, None),
    ]
    dataset = recount.write(tmp_path, events)
    found = groups(dataset, recount.labels([(s, START, "train") for s in (3, 2, 1, 9)]))
    assert found["insurance"].tolist() == [UNKNOWN, UNKNOWN, "one", UNKNOWN]
    assert found["race"].tolist() == ["B", UNKNOWN, UNKNOWN, UNKNOWN]
    assert all(values.dtype.kind == "U" and values.shape == (4,) for values in found.values())


def test_bands_of_age(tmp_path):
    years = np.array([0, 17.9, 18, 44.9, 45, 64.9, 65, 79.9, 80, 110, np.nan])
    bands = "<18 <18 18-44 18-44 45-64 45-64 65-79 65-79 80+ 80+ unknown".split()
    assert subject_groups.age_bands(years).tolist() == bands
    assert subject_groups.age_bands(years[[1, 4, 10]], (40.0,)).tolist() == ["<40", "40+", UNKNOWN]
    assert one(tmp_path / "a", [(START - 50 * 366 * DAY, "MEDS_BIRTH")])["age"] == "45-64"
    assert one(tmp_path / "b", [(START + 11 * DAY, "MEDS_BIRTH"), (START, "plain")])["age"] == UNKNOWN


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_columns_of_a_file(tmp_path, ending):
    dataset = recount.write(tmp_path / "meds", [(s, START, "plain", None, None) for s in (1, 2, 3)])
    asked = recount.labels([(1, START, "train"), (1, START + DAY, "train"), (3, START, "train")])
    by_subject = pl.DataFrame({"subject_id": [1, 2], "region": ["north", None], "other": [1, 2]})
    by_time = pl.DataFrame(
        {"subject_id": [1, 3], "prediction_time": [START + DAY, START], "ward": ["A", "B"]},
        schema_overrides={"prediction_time": pl.Datetime("us")},
    )

    def save(frame: pl.DataFrame, name: str):
        path = tmp_path / f"{name}.{ending}"
        frame.write_csv(path) if ending == "csv" else frame.write_parquet(path)
        return path

    found = groups(dataset, asked, file=save(by_subject, "subjects"), columns=["region", "other"])
    assert found["region"].tolist() == ["north", "north", UNKNOWN] and found["other"].tolist() == ["1", "1", UNKNOWN]
    found = groups(dataset, asked, file=save(by_time, "times"), columns=["ward"])
    assert found["ward"].tolist() == [UNKNOWN, "A", "B"]
    with pytest.raises(InputError, match="several rows"):
        groups(dataset, asked, file=save(pl.concat([by_subject, by_subject]), "twice"), columns=["region"])
    with pytest.raises(InputError, match="no column 'age'"):
        groups(dataset, asked, file=tmp_path / f"times.{ending}", columns=["age"])
    with pytest.raises(InputError, match="cannot be read"):
        groups(dataset, asked, file=tmp_path / f"absent.{ending}", columns=["age"])
    odd = by_subject.with_columns(subject_id=pl.lit("x"))
    with pytest.raises(InputError, match="subject ids"):
        groups(dataset, asked, file=save(odd, "odd"), columns=["region"])


def test_what_cannot_be_grouped_is_said(tmp_path):
    dataset = recount.write(tmp_path, [(1, START, "plain", None, None)])
    asked = recount.labels([(1, START, "train")])
    with pytest.raises(InputError, match="rise"):
        groups(dataset, asked, age_edges=(65, 18))
    with pytest.raises(InputError, match="need a file"):
        groups(dataset, asked, columns=["region"])
