"""Label files with the truth, the second site, and missing values: the filter stays exact, and says what it expects."""

from __future__ import annotations

import json

import meds
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from ehrjax.core.errors import InputError
from ehrjax.ingest import roles, synthetic
from ehrjax.ingest.labels import reading
from ehrjax.ingest.meds import open_dataset
from ehrjax.ingest.synthetic import sites, writing
from tests.ingest.meds_checks import check_meds, digests


@pytest.fixture(scope="module", params=["first", "second"])
def hospital(request, tmp_path_factory):
    """A site with a third of its results and prescriptions missing, and its label files."""
    folder = tmp_path_factory.mktemp(request.param) / "meds"
    summary = synthetic.write(folder, patients=1300, seed=8, site=request.param, missing=0.3, labels=True)
    return request.param, folder, summary


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_binned_probabilities_match_observed_rates(hospital, task):
    frame = reading.read_labels(hospital[1] / "labels" / task).frame
    outcome, p = frame["boolean_value"].to_numpy(), frame["true_probability"].to_numpy()
    assert len(p) > 900 and 0 < outcome.mean() < 1
    order = np.argsort(p)
    spread = np.cumsum((p * (1 - p))[order])
    bins = np.minimum((spread / spread[-1] * 8).astype(int), 7)
    z = [(outcome - p)[order][bins == b].sum() / np.sqrt((p * (1 - p))[order][bins == b].sum()) for b in range(8)]
    assert np.abs(z).max() < 3.5, z
    assert np.sum(np.square(z)) < 26.1, z  # chi-squared with 8 degrees of freedom, upper 0.1 %


@pytest.mark.parametrize("task", synthetic.TASKS)
def test_label_files_follow_the_schema_and_the_oracle_is_told(hospital, task):
    site, folder, _ = hospital
    for path in sorted((folder / "labels" / task).rglob("*.parquet")):
        meds.LabelSchema.validate(pq.read_table(path))
    labels = reading.read_labels(folder / "labels" / task)
    told = json.loads((folder / "labels" / task / "task.json").read_text())
    splits = dict(open_dataset(folder).splits.iter_rows())
    assert all(splits[subject] == split for subject, split in labels.frame.select("subject_id", "split").iter_rows())
    for split, part in labels.frame.group_by("split"):
        assert told["splits"][split[0]]["labels"] == len(part)
        assert told["splits"][split[0]]["positives"] == part["boolean_value"].sum()
        if 0 < part["boolean_value"].sum() < len(part):
            auroc = roc_auc_score(part["boolean_value"], part["true_probability"])
            assert told["splits"][split[0]]["oracle_auroc"] == pytest.approx(auroc)
    # The same truth from the written events, subject by subject.
    events = pl.concat([pl.read_parquet(path) for path in sorted((folder / "data").glob("*/*.parquet"))])
    for row in (0, len(labels.frame) // 2):
        subject, time = labels.frame.select("subject_id", "prediction_time").row(row)
        history = events.filter(pl.col("subject_id") == subject)
        again = synthetic.true_probability(history, time, task, site=site)
        assert again == pytest.approx(labels.frame["true_probability"][row], rel=1e-4)


def test_the_truth_of_some_splits_is_that_of_all(hospital, tmp_path):
    site, folder, _ = hospital
    given = dict(patients=1300, seed=8, site=site, missing=0.3, labels=True)
    summary = synthetic.write(tmp_path / "meds", **given, truth=("held_out",))
    for task in synthetic.TASKS:
        whole, part = (reading.read_labels(path / "labels" / task).frame for path in (folder, tmp_path / "meds"))
        assert part.drop("true_probability").equals(whole.drop("true_probability"))
        held = pl.col("split") == "held_out"
        assert part.filter(~held)["true_probability"].null_count() == len(part.filter(~held)) > 0
        np.testing.assert_allclose(
            part.filter(held)["true_probability"], whole.filter(held)["true_probability"], rtol=1e-5
        )
        told, every = (
            json.loads((path / "labels" / task / "task.json").read_text())["splits"]
            for path in (tmp_path / "meds", folder)
        )
        assert told["train"] == {**every["train"], "expected_positives": None, "oracle_auroc": None}
        assert told["held_out"] == pytest.approx(every["held_out"], rel=1e-5)
        assert "oracle_auroc_on_train" not in summary[task]
    with pytest.raises(InputError, match="names 'test'; the splits are"):
        synthetic.write(tmp_path / "other", **given, truth=("test",))


def test_the_dataset_is_valid_and_has_its_roles(hospital):
    site, folder, summary = hospital
    check_meds(folder)
    dataset = open_dataset(folder)
    wanted = {"admission", "discharge", "diagnosis", "medication", "lab", "female", "male", "emergency", "outpatient"}
    assert set(roles.of(dataset).present(dataset.codes["code"]).patterns) >= wanted
    assert dataset.metadata["synthetic"]["missing"] == 0.3
    assert summary["readmission_30d"]["oracle_auroc_on_train"] > 0.55


def test_what_is_missing_is_missing_at_random_and_nothing_else():
    whole = pl.concat(synthetic.simulate(400, 4))
    part = pl.concat(synthetic.simulate(400, 4, missing=0.25))
    may = pl.col("code").str.contains("^(LOINC|RXNORM)//")
    assert part.filter(~may).equals(whole.filter(~may))
    left = part.filter(may).height / whole.filter(may).height
    assert abs(left - 0.75) < 4 * np.sqrt(0.25 * 0.75 / whole.filter(may).height)
    assert part.join(whole, on=whole.columns, how="anti", nulls_equal=True).is_empty(), "nothing is new"
    few = pl.concat(synthetic.simulate(50, 4, missing=0.25))
    assert few.equals(part.filter(pl.col("subject_id") <= 50)), "what is lost does not depend on how many there are"


def test_the_second_site_writes_other_codes_units_and_people():
    first, second = (pl.concat(synthetic.simulate(600, 2, site=site)) for site in ("first", "second"))
    ours, theirs = set(first["code"]), set(second["code"])
    shared = {code.split("//")[0] for code in ours & theirs}
    assert not shared & {"LOINC", "ICD10CM", "RXNORM", "LAB", "ICD10", "DRUG"}
    assert {"LAB", "ICD10", "DRUG"} <= {code.split("//")[0] for code in theirs}

    def median(events: pl.DataFrame, unit: str) -> float:
        return events.filter(pl.col("code").str.ends_with(unit))["numeric_value"].median()

    assert (
        20
        < median(second, "//umol/L") / first.filter(pl.col("code") == "LOINC//2160-0//mg/dL")["numeric_value"].median()
        < 200
    ), "creatinine in other units, of sicker people"

    def age(events: pl.DataFrame) -> float:
        times = events.group_by("subject_id").agg(
            pl.col("time").filter(pl.col("code") == "MEDS_BIRTH").first().alias("birth"),
            pl.col("time").filter(pl.col("code") == "ENCOUNTER//REGISTRATION").first().alias("entry"),
        )
        return ((times["entry"] - times["birth"]).dt.total_days() / 365.25).mean()

    assert age(second) > age(first) + 5
    men = [(events["code"] == "GENDER//M").sum() / 600 for events in (first, second)]
    assert men[1] > men[0]


def test_what_the_second_site_writes_leads_back_to_the_last_bit_that_matters():
    site = sites.site_named("second")
    events = pl.concat(synthetic.simulate(300, 6))
    back = site.read_back(site.written(events))
    assert back.drop("numeric_value").equals(events.drop("numeric_value"))
    assert len(set(site.codes.values())) == len(site.codes), "no two codes become one"
    told, given = back["numeric_value"].to_numpy(), events["numeric_value"].to_numpy()
    steps = {lab.code: lab.step for lab in sites.LABS}
    step = events["code"].replace_strict(steps, default=1.0, return_dtype=pl.Float64).to_numpy()
    assert np.nanmax(np.abs(told - given) / step) < 0.05


def test_the_result_does_not_depend_on_the_number_of_processes(tmp_path, monkeypatch):
    synthetic.write(tmp_path / "many", patients=2600, seed=1, labels=True)
    monkeypatch.setattr(writing.os, "cpu_count", lambda: 1)
    synthetic.write(tmp_path / "one", patients=2600, seed=1, labels=True)
    assert digests(tmp_path / "one") == digests(tmp_path / "many")
    synthetic.write(tmp_path / "bare", patients=2600, seed=1)
    events = {name: value for name, value in digests(tmp_path / "one").items() if not name.startswith("labels")}
    assert digests(tmp_path / "bare") == events


@pytest.mark.parametrize(
    "wrong", [{"missing": -0.1}, {"missing": 1.0}, {"site": "third"}, {"seed": -1}, {"patients": 0}]
)
def test_bad_arguments_are_refused(wrong, tmp_path):
    with pytest.raises(InputError, match="--missing|site|--seed|--patients"):
        synthetic.write(tmp_path / "meds", **{"patients": 10, **wrong})
    assert not (tmp_path / "meds").exists()
