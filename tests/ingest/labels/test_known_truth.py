"""Labels against what is known otherwise: the raw MIMIC-IV demo, and the synthetic hospital's own labels."""

from __future__ import annotations

import datetime
import os
import re
from pathlib import Path

import polars as pl
import pytest

from ehrjax.ingest import meds, mimic_iv, roles, synthetic
from ehrjax.ingest.labels import making
from ehrjax.ingest.labels.reading import read_labels
from ehrjax.ingest.labels.record import Record
from ehrjax.ingest.labels.settings import choose
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.chronic import CONDITIONS
from ehrjax.ingest.synthetic.process import build

END = (clock.EPOCH + datetime.timedelta(seconds=clock.END)).isoformat()
DISEASE = {condition.name: index for index, condition in enumerate(CONDITIONS)}


@pytest.fixture(scope="module")
def events() -> pl.DataFrame:
    return next(synthetic.simulate(1000, seed=21))


def first_of(condition: str) -> tuple[str, ...]:
    return tuple(f"{re.escape(code)}$" for code in build().diagnoses[DISEASE[condition]].codes)


YEARLY = {"predict": "every", "horizon_days": 365.0, "every_days": 365.0, "follow_up": "complete", "data_end": END}


@pytest.mark.parametrize(
    ("truth", "task", "options"),
    [
        ("readmission_30d", "readmission_30d", {"follow_up": "complete", "data_end": END}),
        ("death_1y", "new_diagnosis", {**YEARLY, "codes": ("MEDS_DEATH$",), "min_age_years": 50.0}),
        ("new_diabetes_1y", "new_diagnosis", {**YEARLY, "codes": "diabetes", "min_age_years": 30.0}),
        ("new_heart_failure_1y", "new_diagnosis", {**YEARLY, "codes": "heart_failure", "min_age_years": 30.0}),
    ],
)
def test_the_synthetic_hospitals_own_labels(truth: str, task: str, options: dict, events: pl.DataFrame) -> None:
    if options.get("codes") in DISEASE:
        options = {**options, "codes": first_of(options["codes"])}
    record = Record(events, roles.Roles({name: tuple(p) for name, p in roles.SYNTHETIC.items()}))
    ours = making.candidates_of(record, choose(task, **options)).filter(pl.col("excluded").is_null())
    expected = synthetic.labels(events, truth).sort("subject_id", "prediction_time")
    assert len(expected) > 300 and expected["boolean_value"].any()
    assert ours.select(expected.columns).equals(expected)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not os.environ.get("EHRJAX_DATA"):
        pytest.skip("EHRJAX_DATA does not name the folder of real data")
    folder = tmp_path_factory.mktemp("demo") / "meds"
    mimic_iv.read(Path(os.environ["EHRJAX_DATA"]) / "mimic-iv-demo", folder)
    return folder


@pytest.fixture(scope="module")
def admissions(demo: Path) -> pl.DataFrame:
    """The raw table, as pandas-minded people would read it."""
    path = next((Path(os.environ["EHRJAX_DATA"]) / "mimic-iv-demo" / "hosp").glob("admissions.csv*"))
    return pl.read_csv(path, try_parse_dates=True).sort("subject_id", "admittime")


def total(info: dict, key: str) -> int:
    return sum(counts[key] for counts in info["splits"].values())


@pytest.mark.data
def test_readmissions_of_the_demo(demo: Path, admissions: pl.DataFrame, tmp_path: Path) -> None:
    info = making.make(demo, tmp_path, choose("readmission_30d", keep_overlaps=True))
    assert (total(info, "candidates"), total(info, "labels"), total(info, "positives")) == (275, 260, 53)
    expected = {}
    for row in admissions.filter(pl.col("hospital_expire_flag") == 0).iter_rows(named=True):
        later = admissions.filter(
            (pl.col("subject_id") == row["subject_id"])
            & (pl.col("admittime") > row["dischtime"])
            & (pl.col("admittime") <= row["dischtime"] + datetime.timedelta(days=30))
        )
        expected[row["subject_id"], row["dischtime"]] = len(later) > 0
    labels = read_labels(tmp_path / "readmission_30d").frame
    assert dict(zip(labels.select("subject_id", "prediction_time").rows(), labels["boolean_value"])) == expected
    # One discharge lies within another, overlapping stay, and is not asked unless one wants it.
    info = making.make(demo, tmp_path, choose("readmission_30d", name="default"))
    assert (total(info, "labels"), total(info, "positives")) == (259, 52)


@pytest.mark.data
def test_deaths_and_lengths_of_stay_of_the_demo(demo: Path, admissions: pl.DataFrame, tmp_path: Path) -> None:
    info = making.make(demo, tmp_path, choose("in_hospital_mortality", hours=0.0))
    assert (total(info, "candidates"), total(info, "labels"), total(info, "positives")) == (275, 275, 15)
    labels = read_labels(tmp_path / "in_hospital_mortality").frame
    flags = admissions.select("subject_id", pl.col("admittime").alias("prediction_time"), "hospital_expire_flag")
    joined = labels.join(flags, on=["subject_id", "prediction_time"], how="inner")
    assert len(joined) == 275 and (joined["boolean_value"] == (joined["hospital_expire_flag"] == 1)).all()

    info = making.make(demo, tmp_path, choose("long_length_of_stay"))
    length = (pl.col("dischtime") - pl.col("admittime")).alias("length")
    day, week = datetime.timedelta(days=1), datetime.timedelta(days=7)
    raw = admissions.filter(pl.col("dischtime") > pl.col("admittime") + day).select(length)
    assert total(info, "labels") == len(raw)
    # A death some minutes before the discharge would shorten a stay; none of the demo's crosses a week by that.
    assert total(info, "positives") == raw.filter(pl.col("length") > week).height


@pytest.mark.data
def test_intensive_care_of_the_demo(demo: Path, admissions: pl.DataFrame, tmp_path: Path) -> None:
    path = next((Path(os.environ["EHRJAX_DATA"]) / "mimic-iv-demo" / "icu").glob("icustays.csv*"))
    icu = pl.read_csv(path, try_parse_dates=True)
    making.make(demo, tmp_path, choose("icu_transfer"))
    labels = read_labels(tmp_path / "icu_transfer").frame
    day = datetime.timedelta(days=1)
    positive = 0
    for row in admissions.iter_rows(named=True):
        stays = icu.filter(pl.col("hadm_id") == row["hadm_id"])
        late = stays.filter(pl.col("intime") > row["admittime"] + day)
        early = stays.filter(pl.col("intime") <= row["admittime"] + day)
        asked = labels.filter(
            (pl.col("subject_id") == row["subject_id"]) & (pl.col("prediction_time") == row["admittime"] + day)
        )
        if len(asked):
            assert early.is_empty() and asked["boolean_value"].item() == (not late.is_empty())
            positive += len(late) > 0
        elif row["dischtime"] > row["admittime"] + day:
            assert not early.is_empty()
    assert positive == labels["boolean_value"].sum() > 10


@pytest.mark.data
def test_potassium_of_the_demo(demo: Path, tmp_path: Path) -> None:
    path = next((Path(os.environ["EHRJAX_DATA"]) / "mimic-iv-demo" / "hosp").glob("labevents.csv*"))
    raw = pl.read_csv(path, infer_schema_length=None, try_parse_dates=True).filter(pl.col("itemid") == 50971)
    raw = raw.filter(pl.col("valuenum").is_not_null()).group_by("subject_id", "charttime").agg(pl.col("valuenum").max())
    making.make(demo, tmp_path, choose("abnormal_lab"))
    labels = read_labels(tmp_path / "abnormal_lab").frame.with_columns(
        (pl.col("prediction_time") + datetime.timedelta(minutes=1)).alias("charttime")
    )
    joined = labels.join(raw.cast({"charttime": pl.Datetime("us")}), on=["subject_id", "charttime"], how="left")
    assert joined["valuenum"].null_count() == 0 and len(labels) > 2900
    assert (joined["boolean_value"] == (joined["valuenum"] > 5.5)).all()
    splits = meds.open_dataset(demo).splits
    assert set(labels.join(splits, on="subject_id")["split_right"]) == set(meds.SPLITS)
