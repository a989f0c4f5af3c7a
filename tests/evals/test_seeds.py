"""Means over seeds, against scikit-learn and the resamples by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target
from ehrjax.evals import prediction_files, seeds
from ehrjax.evals.prediction_files import Predictions
from ehrjax.metrics.bootstrap import resample_counts

ROWS = 300


def written(folder, name, values, truth, subjects):
    keys = pl.DataFrame({"subject_id": subjects, "prediction_time": np.arange(len(truth)) * 10**6})
    keys = keys.with_columns(pl.col("prediction_time").cast(pl.Datetime("us")))
    made = Predictions(Target("yes_no"), keys, truth.astype(np.float32)[:, None], np.float32(values)[:, None])
    prediction_files.write(folder / f"{name}.parquet", made)
    return folder / f"{name}.parquet"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models of two seeds and a better one, of the same labels."""
    folder, rng = tmp_path_factory.mktemp("seeds"), np.random.default_rng(0)
    truth, subjects = rng.random(ROWS) < 0.4, np.sort(rng.integers(0, 90, ROWS))
    noise = {"base": 4, "good": 1.5, "best": 0.5}
    made = {
        name: [
            written(folder, f"{name}_{s}", 1 / (1 + np.exp(-(truth + sd * rng.normal(size=ROWS)))), truth, subjects)
            for s in range(2 if name != "best" else 1)
        ]
        for name, sd in noise.items()
    }
    return folder, made, truth, subjects


def test_a_mean_is_that_of_its_seeds_and_its_interval_of_resampled_subjects(files):
    _, made, truth, subjects = files
    found = seeds.means(made)
    scores = {
        name: [prediction_files.read(p).values[:, 0].astype(float) for p in paths] for name, paths in made.items()
    }
    expected = {name: [roc_auc_score(truth, one) for one in several] for name, several in scores.items()}
    for name, mean in found.items():
        assert mean.seeds == pytest.approx(expected[name], abs=1e-12)
        assert mean.value == pytest.approx(np.mean(expected[name]), abs=1e-12)
    population, places = np.unique(subjects, return_inverse=True)
    counts = resample_counts(len(population))[:20]
    for name in ("base", "good"):
        byhand = [
            np.mean([roc_auc_score(truth, one, sample_weight=row[places]) for one in scores[name]]) for row in counts
        ]
        np.testing.assert_allclose(found[name].drawn[:20], byhand, atol=1e-12)


def test_differences_and_shares_are_paired(files):
    found = seeds.means(files[1])
    base, good, best = (found[name] for name in ("base", "good", "best"))
    assert good.less(good) == (0.0, 0.0, 0.0)
    value, low, high = good.less(base)
    assert value == pytest.approx(good.value - base.value) and low < value < high
    assert base.closed(base, best) == (0.0, 0.0, 0.0) and best.closed(base, best) == (1.0, 1.0, 1.0)
    share, low, high = good.closed(base, best)
    assert share == pytest.approx((good.value - base.value) / (best.value - base.value)) and low < share < high


def test_what_cannot_be_said_is_not_said(files, tmp_path):
    found = seeds.means(files[1])
    value, low, high = found["good"].closed(found["base"], found["base"])
    assert not np.isfinite(value) and low is None and high is None
    one = written(tmp_path, "one", np.linspace(0.1, 0.9, 20), np.arange(20) % 3 == 0, np.zeros(20, np.int64))
    value, low, high = seeds.means({"one": [one]})["one"].shown()
    assert 0 < value < 1 and low is None and high is None
    with pytest.raises(InputError, match="No file"):
        seeds.means({})


def test_files_of_other_labels_are_refused(files, tmp_path):
    _, made, truth, subjects = files
    other = written(tmp_path, "other", np.full(ROWS, 0.5), truth, subjects + 1)
    with pytest.raises(InputError, match="different labels"):
        seeds.means({**made, "other": [other]})
    numbers = Predictions(Target("number"), prediction_files.read(other).keys, truth[:, None], truth[:, None] * 1.0)
    prediction_files.write(tmp_path / "numbers.parquet", numbers)
    with pytest.raises(InputError, match="no yes-or-no"):
        seeds.means({"numbers": [tmp_path / "numbers.parquet"]})


def test_four_folds_have_half_the_interval_of_one(tmp_path):
    """The interval of four folds is half as wide as that of one."""
    rng, folds = np.random.default_rng(3), []
    for fold in range(4):
        truth = rng.random(ROWS) < 0.4
        path = written(
            tmp_path, f"fold_{fold}", 1 / (1 + np.exp(-(truth + rng.normal(size=ROWS)))), truth, np.arange(ROWS)
        )
        folds.append(seeds.means({"model": [path]}, seed=fold)["model"])
    found = seeds.over_folds(folds)
    assert found.value == pytest.approx(np.mean([fold.value for fold in folds]), abs=1e-12)
    assert np.std(found.drawn) == pytest.approx(np.mean([np.std(fold.drawn) for fold in folds]) / 2, rel=0.15)
