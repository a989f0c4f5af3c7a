"""Rank metrics against scikit-learn and loops, and the intervals of AUROCs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics
from sklearn.metrics import roc_auc_score

from ehrjax.metrics import bootstrap, discrimination
from tests.metrics.drawn import SEEDS, repeated, weights, yes_no


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
    zeroed = np.where(some, 1, 0) * bootstrap.resample_counts(80, resamples=30)
    np.testing.assert_allclose(part[0], discrimination.auroc(truth, scores[0], zeroed), atol=1e-12)
    assert (whole != part).any()


@settings(deadline=None)
@given(SEEDS)
def test_rank_metrics_are_scikit_learn_s_for_any_weights(seed):
    truth, scores = yes_no(seed)
    # Whole and other weights: scikit-learn takes both.
    rows = weights(seed, len(truth)) * np.array([[1.0], [1.0], [0.37]])
    aurocs, precisions = (
        metric(truth, scores, rows) for metric in (discrimination.auroc, discrimination.average_precision)
    )
    for row, auroc, precision in zip(rows, aurocs, precisions):
        y, s, w = truth[row > 0], scores[row > 0], row[row > 0]
        if y.any():
            assert precision == pytest.approx(metrics.average_precision_score(y, s, sample_weight=w), abs=1e-9)
        else:
            assert np.isnan(precision)
        if len(set(y)) == 2:
            assert auroc == pytest.approx(roc_auc_score(y, s, sample_weight=w), abs=1e-9)
        else:
            assert np.isnan(auroc)


@settings(deadline=None)
@given(SEEDS)
def test_sensitivity_at_specificity_is_that_of_a_search(seed):
    truth, scores = yes_no(seed)
    rows = weights(seed, len(truth))
    for least in (0.0, 0.5, 0.9, 1.0):
        for row, value in zip(rows, discrimination.sensitivity_at_specificity(truth, scores, rows, least)):
            y, s = truth[repeated(row)], scores[repeated(row)]
            if len(set(y)) < 2:
                assert np.isnan(value)
                continue
            thresholds = [*s, np.inf]
            allowed = [t for t in thresholds if (s[~y] < t).sum() / (~y).sum() >= least]
            assert value == pytest.approx(max((s[y] >= t).mean() for t in allowed), abs=1e-9)


def test_a_specificity_just_reached_counts():
    truth, scores = np.array([False] * 10 + [True]), np.array([*range(10), 8.5])
    assert discrimination.sensitivity_at_specificity(truth, scores, None, 0.9)[0] == 1
    assert discrimination.sensitivity_at_specificity(truth, scores, None, 0.91)[0] == 0


def test_one_class_has_precision_only_with_a_yes():
    assert discrimination.average_precision(np.ones(3, bool), np.arange(3.0))[0] == 1
    for truth in (np.zeros(3, bool), np.zeros(0, bool)):
        assert np.isnan(discrimination.average_precision(truth, np.zeros(len(truth))))[0]
        assert np.isnan(discrimination.sensitivity_at_specificity(truth, np.zeros(len(truth))))[0]


def test_rows_of_one_subject_share_a_weight():
    rng = np.random.default_rng(2)
    truth, scores, places = rng.random(40) < 0.5, rng.integers(0, 9, 40) / 10, rng.integers(0, 7, 40)
    counts = rng.integers(0, 4, (5, 7))
    tally = discrimination.Steps.of(truth, scores, places, 7).tally(counts)
    np.testing.assert_allclose(tally.auroc(), discrimination.auroc(truth, scores, counts[:, places]), atol=1e-12)


def test_curves_have_the_areas():
    truth, scores = yes_no(11)
    wrong, right, thresholds = discrimination.roc_curve(truth, scores)
    assert np.trapezoid(right, wrong) == pytest.approx(discrimination.auroc(truth, scores)[0], abs=1e-9)
    assert len(wrong) == len(right) == len(thresholds)
    precision, recall, _ = discrimination.precision_recall_curve(truth, scores)
    area = -(np.diff(recall) * precision[:-1]).sum()
    assert area == pytest.approx(discrimination.average_precision(truth, scores)[0], abs=1e-9)
    for only in (np.zeros(3, bool), np.ones(3, bool)):
        assert [len(part) for part in discrimination.roc_curve(only, np.arange(3.0))] == [0, 0, 0]
    assert [len(part) for part in discrimination.precision_recall_curve(np.zeros(3, bool), np.zeros(3))] == [0, 0, 0]
