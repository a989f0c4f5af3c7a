"""Decisions at a threshold against scikit-learn and a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from ehrjax.core.errors import InputError
from ehrjax.metrics import thresholds
from tests.metrics.drawn import SEEDS, repeated, weights, yes_no


@settings(deadline=None)
@given(SEEDS)
def test_best_f1_is_that_of_a_search(seed: int) -> None:
    truth, p = yes_no(seed)
    found = thresholds.best_f1(truth, p)
    if not truth.any():
        assert found == 0.5
        return
    by_threshold = {t: metrics.f1_score(truth, p >= t) for t in set(p.tolist())}
    best = max(by_threshold.values())
    assert found == max(t for t, f1 in by_threshold.items() if f1 == pytest.approx(best, abs=1e-12))


def test_best_f1_of_ties_and_of_nothing() -> None:
    # Thresholds 0.9 and 0.2 both have F1 2/3: the larger wins.
    assert thresholds.best_f1(np.array([True, False, False, True]), np.array([0.9, 0.4, 0.3, 0.2])) == 0.9
    assert thresholds.best_f1(np.ones(3, bool), np.full(3, 0.1)) == 0.1
    assert thresholds.best_f1(np.zeros(0, bool), np.zeros(0)) == 0.5


@settings(deadline=None)
@given(SEEDS)
def test_rates_are_scikit_learn_s(seed: int) -> None:
    truth, p = yes_no(seed)
    drawn, threshold = weights(seed, len(p)), float(np.random.default_rng(seed).choice(p))
    found = thresholds.at(truth, p, threshold, drawn)
    for r, row in enumerate(drawn):
        y, said, w = truth[row > 0], p[row > 0] >= threshold, row[row > 0]
        expected = {
            "accuracy": metrics.accuracy_score(y, said, sample_weight=w) if len(y) else np.nan,
            "f1": metrics.f1_score(y, said, sample_weight=w) if y.any() else np.nan,
            "sensitivity": metrics.recall_score(y, said, sample_weight=w) if y.any() else np.nan,
            "specificity": metrics.recall_score(~y, ~said, sample_weight=w) if not y.all() else np.nan,
            "ppv": metrics.precision_score(y, said, sample_weight=w) if said.any() else np.nan,
        }
        assert {name: values[r] for name, values in found.items()} == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(deadline=None)
@given(SEEDS)
def test_net_benefit_is_the_formula(seed: int) -> None:
    truth, p = yes_no(seed)
    drawn, at = weights(seed, len(p)), np.array([0.0, 0.1, 0.5, 0.95])
    curves = thresholds.net_benefit(truth, p, at, drawn)
    assert (curves.treat_none == 0).all() and curves.treat_none.shape == (4,)
    for r, row in enumerate(drawn):
        y, q = truth[repeated(row)], p[repeated(row)]
        for k, t in enumerate(at):
            if not len(y):
                assert np.isnan(curves.model[r, k]) and np.isnan(curves.treat_all[r, k])
                continue
            model = ((q >= t) & y).sum() / len(y) - ((q >= t) & ~y).sum() / len(y) * t / (1 - t)
            assert curves.model[r, k] == pytest.approx(model, abs=1e-9)
            assert curves.treat_all[r, k] == pytest.approx(y.mean() - (1 - y.mean()) * t / (1 - t), abs=1e-9)


@pytest.mark.parametrize("wrong", [-0.1, 1.0, float("nan")])
def test_thresholds_that_cost_infinitely_much(wrong: float) -> None:
    with pytest.raises(InputError, match="threshold"):
        thresholds.net_benefit(np.array([True]), np.array([0.5]), np.array([0.2, wrong]))
