"""The synthetic hospital as a MEDS dataset: valid, reproducible, and of a hospital's shape."""

from __future__ import annotations

import datetime
import json

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from ehrjax.core.errors import InputError
from ehrjax.ingest import meds as contract
from ehrjax.ingest import synthetic
from ehrjax.ingest.synthetic import clock
from ehrjax.ingest.synthetic.chronic import CONDITIONS
from ehrjax.ingest.synthetic.incidental import INCIDENTAL
from ehrjax.ingest.synthetic.process import READMISSION_WINDOW, build
from ehrjax.ingest.synthetic.reasons import REASONS
from ehrjax.ingest.synthetic.record import code_table, codes


@pytest.fixture(scope="module")
def events():
    return pl.concat(synthetic.simulate(1000, seed=1))


def test_written_dataset_is_valid_meds(tmp_path):
    import meds

    seen = []
    summary = synthetic.write(tmp_path / "out", patients=60, seed=2, progress=lambda *done: seen.append(done))
    assert seen == [(60, 60)]
    dataset = contract.open_dataset(tmp_path / "out")
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out" / "data").rglob("*.parquet"))]
    for table in tables:
        meds.DataSchema.validate(table)
    folder = tmp_path / "out" / "metadata"
    meds.SubjectSplitSchema.validate(pq.read_table(folder / "subject_splits.parquet"))
    meds.CodeMetadataSchema.validate(pq.read_table(folder / "codes.parquet"))
    metadata = json.loads((folder / "dataset.json").read_text())
    meds.DatasetMetadataSchema.validate(metadata)
    assert metadata["synthetic"]["seed"] == 2 and metadata["synthetic"]["patients"] == 60
    assert summary["events"] == sum(len(table) for table in tables)
    assert summary["subjects"] == len(dataset.splits) == 60
    assert summary["codes"] == len(dataset.codes)
    assert dataset.codes["description"].null_count() == 0


def test_bad_arguments_are_refused(tmp_path):
    with pytest.raises(InputError, match="at least 1"):
        synthetic.write(tmp_path / "out", patients=0, seed=0)
    with pytest.raises(InputError, match="negative"):
        synthetic.simulate(1, seed=-1)
    assert not list(tmp_path.iterdir())


def test_same_seed_same_history_and_fewer_patients_are_a_prefix(events):
    again = pl.concat(synthetic.simulate(100, seed=1))
    assert again.equals(events.filter(pl.col("subject_id") <= 100))
    assert not pl.concat(synthetic.simulate(100, seed=3)).equals(again)


def test_order_static_facts_births_and_deaths(events):
    assert events.equals(contract.order_events(events))
    static = events.filter(pl.col("time").is_null())
    assert set(static["code"].str.split("//").list.first()) == {"GENDER", "RACE"}
    births = events.filter(pl.col("code") == "MEDS_BIRTH")
    assert len(births) == 1000
    assert (births["time"] < datetime.datetime(1970, 1, 1)).mean() > 0.3
    last = events.group_by("subject_id", maintain_order=True).agg(
        pl.col("code").last(), (pl.col("code") == "MEDS_DEATH").any().alias("dead")
    )
    assert (last["code"].eq("MEDS_DEATH") == last["dead"]).all()
    assert 0.05 < last["dead"].mean() < 0.4
    assert events["time"].max() < clock.EPOCH + datetime.timedelta(seconds=clock.END)


def test_discharge_diagnoses_are_not_known_before_the_discharge(events):
    stays = events.filter(pl.col("visit_id").is_not_null()).with_columns(
        (pl.col("code") == "ENCOUNTER//INPATIENT").any().over("visit_id").alias("stay")
    )
    stays = stays.filter("stay").with_columns(
        pl.col("time").filter(pl.col("code").str.starts_with("DISCHARGE//")).first().over("visit_id").alias("leave"),
        # A condition first found on the ward is noted when it is found.
        pl.col("code").str.starts_with("REASON//EVALUATION").any().over("visit_id", "time").alias("found"),
    )
    diagnoses = stays.filter(pl.col("code").str.starts_with("ICD10CM//") & ~pl.col("found"))
    assert len(diagnoses) > 500
    assert (diagnoses["time"] == diagnoses["leave"]).all()
    assert (stays.filter(pl.col("leave").is_not_null()).select(pl.col("time") <= pl.col("leave"))).to_series().all()
    found = stays.filter("found")
    assert len(found) > 0


def test_lengths_have_a_long_tail(events):
    lengths = events.group_by("subject_id").len()["len"].to_numpy()
    median = np.median(lengths)
    assert 80 < median < 200
    assert 1.2 * median < lengths.mean()
    assert 0.005 < (lengths > 1000).mean() < 0.08
    assert lengths.min() < 12


def test_codes_are_real_and_enough():
    import simple_icd_10_cm as icd

    names = {option.name for condition in CONDITIONS for option in condition.diagnoses} | set(INCIDENTAL)
    names |= {name for reason in REASONS for name in reason.diagnoses}
    assert [name for name in sorted(names) if not (icd.is_valid_item(name) and icd.is_leaf(name))] == []
    assert len(code_table()) > 500 and list(code_table()) == list(codes())
    assert code_table()["ICD10CM//I10"] == icd.get_description("I10") and code_table()["GENDER//F"] == "Female"
    # The filter reads a chronic condition from its codes, so nothing else may write them.
    other = set(INCIDENTAL) | {name for reason in REASONS for name in reason.diagnoses}
    assert not other & {option.name for condition in CONDITIONS for option in condition.diagnoses}
    drugs = {name for reason in REASONS for name in reason.drugs}
    assert not drugs & {option.name for condition in CONDITIONS for option in condition.drugs}


def test_laboratory_values_lie_on_their_grids_and_visits_in_opening_hours(events):
    for mark in build().labs:
        values = events.filter(pl.col("code") == mark.codes[0])["numeric_value"]
        assert len(values) and values.is_in(pl.Series(mark.values).implode()).all()
    hours = events.filter(pl.col("code") == "ENCOUNTER//OUTPATIENT")["time"].dt.hour()
    assert hours.min() >= 8 and hours.max() <= 17


def test_twelve_months_are_365_days_and_the_clock_inverts():
    assert (np.diff(clock.MONTH_STARTS[::12]) == clock.YEAR).all()
    assert READMISSION_WINDOW == 30 * 86400
    elapsed = np.random.default_rng(0).uniform(0, 6000, 1000)
    for profile in clock.PROFILES:
        seconds = clock.at_open_days(elapsed, profile)
        np.testing.assert_allclose(clock.open_days(seconds, profile), elapsed, atol=1e-9)
        assert ((seconds % 86400 >= 3600 * profile[0]) & (seconds % 86400 <= 3600 * profile[1])).all()
