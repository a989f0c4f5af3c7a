"""Several classes against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from ehrjax.metrics import classes
from tests.metrics.drawn import SEEDS, weights


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    size, count = int(rng.integers(2, 6)), int(rng.integers(1, 50))
    p = np.round(rng.dirichlet(np.full(size, 0.7), count), int(rng.choice([1, 12])))
    p[:, 0] += 0.1
    p /= p.sum(axis=1, keepdims=True)
    return rng.integers(0, rng.integers(1, size + 1), count), p


@settings(deadline=None)
@given(SEEDS)
def test_scores_are_scikit_learn_s(seed: int) -> None:
    truth, p = drawn(seed)
    labels, rows = list(range(p.shape[1])), weights(seed, len(truth))
    found = classes.scores(truth, p, rows)
    for r, row in enumerate(rows):
        y, q, w = truth[row > 0], p[row > 0], row[row > 0]
        if not len(y):
            assert all(np.isnan(values[r]) for values in found.values())
            continue
        said = q.argmax(axis=1)
        kappa = np.nan
        if len(set(y) | set(said)) > 1:
            kappa = metrics.cohen_kappa_score(y, said, weights="quadratic", labels=labels, sample_weight=w)
        expected = {
            "accuracy": metrics.accuracy_score(y, said, sample_weight=w),
            "log_loss": metrics.log_loss(y, q, labels=labels, sample_weight=w),
            "brier": metrics.brier_score_loss(y, q, labels=labels, sample_weight=w, scale_by_half=False),
            "quadratic_kappa": kappa,
        }
        assert {name: values[r] for name, values in found.items()} == pytest.approx(expected, abs=1e-9, nan_ok=True)


@settings(deadline=None)
@given(SEEDS)
def test_macro_auroc_is_the_mean_over_the_classes_there_are(seed: int) -> None:
    truth, p = drawn(seed)
    rows = weights(seed, len(truth))
    for row, value in zip(rows, classes.macro_auroc(truth, p, rows)):
        y, q, w = truth[row > 0], p[row > 0], row[row > 0]
        there = sorted(set(y.tolist()))
        if len(there) < 2:
            assert np.isnan(value)
            continue
        each = [metrics.roc_auc_score(y == k, q[:, k], sample_weight=w) for k in there]
        assert value == pytest.approx(np.mean(each), abs=1e-9)
        if len(there) == p.shape[1] > 2:
            assert value == pytest.approx(metrics.roc_auc_score(y, q, multi_class="ovr", sample_weight=w), abs=1e-9)


def test_degenerate() -> None:
    nothing = np.zeros(0, int), np.zeros((0, 3))
    assert all(np.isnan(values).all() for values in classes.scores(*nothing).values())
    assert np.isnan(classes.macro_auroc(*nothing)).all()
    sure = classes.scores(np.array([1, 1]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert sure["log_loss"][0] == pytest.approx(-np.log(np.finfo(float).eps) / 2, abs=1e-9) and sure["brier"][0] == 1
    same = classes.scores(np.array([2, 2]), np.array([[0.1, 0.1, 0.8]] * 2))
    assert np.isnan(same["quadratic_kappa"][0]) and same["accuracy"][0] == 1
