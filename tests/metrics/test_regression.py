"""Errors of numbers against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from ehrjax.metrics import regression
from tests.metrics.drawn import SEEDS, weights


@settings(deadline=None)
@given(SEEDS)
def test_errors_are_scikit_learn_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 40))
    # Far from zero, where a difference of squares would lose the variance.
    truth = np.round(rng.normal(rng.choice([0.0, 1e4]), 1.0, count), int(rng.choice([0, 9])))
    predicted, drawn = truth + rng.normal(size=count), weights(seed, count)
    found = regression.errors(truth, predicted, drawn)
    for r, row in enumerate(drawn):
        y, f, w = truth[row > 0], predicted[row > 0], row[row > 0]
        expected = {"mae": np.nan, "rmse": np.nan, "r2": np.nan}
        if len(y):
            expected["mae"] = metrics.mean_absolute_error(y, f, sample_weight=w)
            expected["rmse"] = metrics.root_mean_squared_error(y, f, sample_weight=w)
        if len(set(y)) > 1:
            expected["r2"] = metrics.r2_score(y, f, sample_weight=w)
        assert {name: values[r] for name, values in found.items()} == pytest.approx(expected, rel=1e-9, nan_ok=True)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e9])
def test_one_value_has_no_variance_to_explain(value: float) -> None:
    found = regression.errors(np.full(3, value), np.full(3, value + 1))
    assert found["mae"][0] == pytest.approx(1) and np.isnan(found["r2"][0])


def test_nothing() -> None:
    assert all(np.isnan(values).all() for values in regression.errors(np.zeros(0), np.zeros(0)).values())
