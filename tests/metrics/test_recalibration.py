"""Corrections fitted on tuning: the best of their kind, and harmless where nothing can be learnt."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics
from sklearn.isotonic import IsotonicRegression

from ehrjax.metrics import recalibration
from tests.metrics.drawn import SEEDS, yes_no


@settings(deadline=None)
@given(SEEDS)
def test_no_other_temperature_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size, count = int(rng.integers(2, 6)), int(rng.integers(20, 200))
    p = rng.dirichlet(np.ones(size), count)
    truth = np.array([rng.choice(size, p=row**0.5 / (row**0.5).sum()) for row in p])
    fitted = recalibration.fit_temperature(truth, p)
    assert recalibration.COLDEST <= fitted.temperature <= recalibration.HOTTEST

    def loss(temperature: float) -> float:
        corrected = recalibration.Temperature(temperature)(p)
        assert corrected.sum(axis=1) == pytest.approx(np.ones(count))
        return metrics.log_loss(truth, corrected, labels=range(size))

    best = loss(fitted.temperature)
    assert all(best <= loss(fitted.temperature * shift) + 1e-12 for shift in (0.5, 0.99, 1.01, 2))


def test_a_known_temperature_is_found_for_yes_and_no_and_for_classes() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=200_000)
    truth = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    p = 1 / (1 + np.exp(-3 * logits))
    fitted = recalibration.fit_temperature(truth, p)
    assert fitted.temperature == pytest.approx(3, rel=0.03)
    np.testing.assert_allclose(fitted(p), 1 / (1 + np.exp(-3 * logits / fitted.temperature)), atol=1e-12)
    both = recalibration.fit_temperature(truth.astype(int), np.stack([1 - p, p], axis=1))
    assert both.temperature == pytest.approx(fitted.temperature, rel=1e-9)


@settings(deadline=None)
@given(SEEDS)
def test_isotonic_is_scikit_learn_s(seed: int) -> None:
    truth, p = yes_no(seed)
    if len(set(truth)) < 2:
        return
    fitted = recalibration.fit_isotonic(truth, p)
    expected = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, truth)
    new = np.linspace(0, 1, 53)
    np.testing.assert_allclose(fitted(new), expected.predict(new), atol=1e-9)


@pytest.mark.parametrize("truth", [np.zeros(0, bool), np.zeros(3, bool), np.ones(3, bool)])
def test_what_teaches_nothing_changes_nothing(truth: np.ndarray) -> None:
    p, new = np.linspace(0.2, 0.4, len(truth)), np.linspace(0, 1, 9)
    for fit in (recalibration.fit_temperature, recalibration.fit_isotonic):
        np.testing.assert_allclose(fit(truth, p)(new), new, atol=1e-12)


def test_perfect_and_useless_predictions_end_at_the_bounds() -> None:
    truth = np.array([True, False])
    assert recalibration.fit_temperature(truth, np.array([0.9, 0.1])).temperature == recalibration.COLDEST
    assert recalibration.fit_temperature(truth, np.array([0.1, 0.9])).temperature == recalibration.HOTTEST


def test_as_json() -> None:
    truth, p = yes_no(3)
    for fit in (recalibration.fit_temperature, recalibration.fit_isotonic):
        fitted = fit(truth, p)
        values = json.loads(json.dumps(fitted.as_dict()))
        method = values.pop("method")
        made = {"temperature": recalibration.Temperature, "isotonic": recalibration.Isotonic}[method](**values)
        np.testing.assert_array_equal(made(p), fitted(p))
