"""AUROC against scikit-learn, and its intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ehrjax.metrics import discrimination


@pytest.mark.parametrize("seed", range(20))
def test_auroc_is_scikit_learn_s(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 400))
    truth = rng.random(count) < rng.uniform(0.1, 0.9)
    scores = rng.normal(size=count) if seed % 2 else rng.integers(0, 4, count).astype(float)
    weights = rng.integers(0, 4, (3, count)).astype(float)
    found = discrimination.auroc(truth, scores, weights)
    for row, value in zip(weights, found):
        if len(set(truth[row > 0])) < 2:
            assert np.isnan(value)
        else:
            assert value == pytest.approx(roc_auc_score(truth, scores, sample_weight=row), abs=1e-9)
    if len(set(truth)) == 2:
        assert discrimination.auroc(truth, scores)[0] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)


def test_degenerate():
    assert np.isnan(discrimination.auroc(np.ones(3, bool), np.arange(3.0)))[0]
    assert np.isnan(discrimination.auroc(np.zeros(0, bool), np.zeros(0)))[0]
    assert discrimination.auroc(np.array([True, False]), np.zeros(2))[0] == 0.5
    (only,), _ = discrimination.aurocs(np.array([True, False]), np.array([[1.0, 0.0]]), np.array([7, 7]))
    assert only.value == 1 and only.low is None and only.subjects == 1


def test_intervals_resample_subjects_and_are_paired():
    rng = np.random.default_rng(0)
    subjects = np.repeat(np.arange(150), 4)
    truth = np.repeat(rng.random(150) < 0.4, 4)
    good = truth + rng.normal(size=150).repeat(4)
    (a, b, same), drawn = discrimination.aurocs(truth, np.stack([good, good + 5, rng.normal(size=600)]), subjects)
    assert a == b and (drawn[0] == drawn[1]).all() and same.low < 0.5 < same.high
    # Four copies of a label are one piece of evidence.
    once, _ = discrimination.aurocs(truth[::4], good[None, ::4], subjects[::4])
    assert a.high - a.low == pytest.approx(once[0].high - once[0].low, rel=0.15)
    assert a.low < a.value < a.high


def test_tasks_of_one_population_are_resampled_together():
    rng = np.random.default_rng(1)
    people = np.arange(80)
    truth, scores = rng.random(80) < 0.5, rng.normal(size=(1, 80))
    some = rng.random(80) < 0.7
    options = dict(population=people, resamples=30)
    _, whole = discrimination.aurocs(truth, scores, people, **options)
    _, part = discrimination.aurocs(truth[some], scores[:, some], people[some], **options)
    zeroed = np.where(some, 1, 0) * discrimination.resample_counts(80, resamples=30)
    np.testing.assert_allclose(part[0], discrimination.auroc(truth, scores[0], zeroed), atol=1e-12)
    assert (whole != part).any()
