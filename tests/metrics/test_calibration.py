"""Calibration against scikit-learn, an optimiser and loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from scipy import optimize
from sklearn import metrics

from ehrjax.metrics import calibration
from tests.metrics.drawn import SEEDS, repeated, weights, yes_no


@settings(deadline=None)
@given(SEEDS)
def test_losses_are_scikit_learn_s(seed: int) -> None:
    truth, p = yes_no(seed)
    rows = weights(seed, len(p))
    losses, briers = calibration.log_loss(truth, p, rows), calibration.brier(truth, p, rows)
    for row, loss, brier in zip(rows, losses, briers):
        y, q, w = truth[row > 0], p[row > 0], row[row > 0]
        if len(y):
            assert loss == pytest.approx(metrics.log_loss(y, q, sample_weight=w, labels=[False, True]), abs=1e-9)
            # scikit-learn takes one class for a mistake unless it is told of the other.
            expected = metrics.brier_score_loss(y, q, sample_weight=w, pos_label=True, labels=[False, True])
            assert brier == pytest.approx(expected, abs=1e-9)
        else:
            assert np.isnan(loss) and np.isnan(brier)


def test_a_sure_mistake_is_not_infinite() -> None:
    assert calibration.log_loss(np.array([True]), np.array([0.0]))[0] == pytest.approx(36.0436533891, abs=1e-9)


@settings(deadline=None)
@given(SEEDS)
def test_expected_calibration_error_is_a_loop_over_bins(seed: int) -> None:
    truth, p = yes_no(seed)
    rows = weights(seed, len(p))
    for equal_mass in (False, True):
        edges = calibration.bin_edges(p, 10, equal_mass)
        found = calibration.expected_calibration_error(truth, p, rows, equal_mass=equal_mass)
        for row, value in zip(rows, found):
            y, q = truth[repeated(row)], p[repeated(row)]
            total = 0.0
            for low, high in zip(edges[:-1], edges[1:]):
                own = (q >= low) & ((q < high) | (high == 1.0))
                if own.any():
                    total += own.mean() * abs(y[own].mean() - q[own].mean())
            assert value == pytest.approx(total if len(y) else np.nan, abs=1e-9, nan_ok=True)


def test_bins() -> None:
    rng = np.random.default_rng(0)
    assert calibration.bin_edges(rng.random(5)).tolist() == pytest.approx(np.linspace(0, 1, 11).tolist())
    p = rng.random(1000) ** 3
    curve = calibration.reliability(p > 0.5, p)
    assert set(curve.count) == {100}
    tied = calibration.reliability(np.array([True, False, True]), np.full(3, 0.25))
    assert tied.count.tolist() == [3] and tied.predicted[0] == 0.25 and tied.observed[0] == pytest.approx(2 / 3)
    assert len(calibration.reliability(np.zeros(0, bool), np.zeros(0)).count) == 0


@pytest.mark.parametrize("equal_mass", [False, True])
def test_reliability_is_a_loop(equal_mass: bool) -> None:
    truth, p = yes_no(7, 200)
    curve = calibration.reliability(truth, p, 4, equal_mass=equal_mass)
    assert curve.count.sum() == len(p) and (np.diff(curve.predicted) > 0).all()
    place = np.digitize(p, calibration.bin_edges(p, 4, equal_mass)[1:-1])
    for k, own in enumerate(place == b for b in np.unique(place)):
        found = curve.count[k], curve.predicted[k], curve.observed[k]
        assert found == pytest.approx((own.sum(), p[own].mean(), truth[own].mean()), abs=1e-9)


def separated(y: np.ndarray, x: np.ndarray) -> bool:
    """Whether no one finite slope is the most likely: by a linear programme, as general as the definition."""
    if len(set(x)) == 1:
        return True
    signed = np.where(y, 1.0, -1.0)[:, None] * np.stack([np.ones(len(x)), x], axis=1)
    found = optimize.linprog(-signed.sum(axis=0), A_ub=-signed, b_ub=np.zeros(len(x)), bounds=[(-1, 1)] * 2)
    return -found.fun > 1e-7


def gradient(y: np.ndarray, x: np.ndarray, intercept: float, slope: float) -> np.ndarray:
    """Of the mean log likelihood, in long double."""
    eta = np.longdouble(intercept) + np.longdouble(slope) * x.astype(np.longdouble)
    rest = np.where(y, 1, -1) / (1 + np.exp(np.where(y, eta, -eta)))
    return np.array([rest.mean(), (rest * x).mean()], np.float64)


@settings(deadline=None)
@given(SEEDS)
def test_the_line_is_where_the_likelihood_is_level(seed: int) -> None:
    truth, p = yes_no(seed)
    rows = weights(seed, len(p))
    line = calibration.line(truth, p, rows)
    logits = np.log(np.clip(p, 2.0**-52, 1 - 2.0**-52)) - np.log1p(-np.clip(p, 2.0**-52, 1 - 2.0**-52))
    for r, row in enumerate(rows):
        y, x = truth[repeated(row)], logits[repeated(row)]
        if len(set(y)) < 2:
            assert np.isnan([line.slope[r], line.joint_intercept[r], line.intercept[r]]).all()
            continue
        assert abs(gradient(y, x, line.intercept[r], 1.0)[0]) < 1e-10
        if separated(y, x):
            assert np.isnan(line.slope[r]) and np.isnan(line.joint_intercept[r])
        else:
            assert np.abs(gradient(y, x, line.joint_intercept[r], line.slope[r])).max() < 1e-10


def test_the_line_is_scikit_learn_s() -> None:
    from sklearn.linear_model import LogisticRegression

    truth, p = yes_no(3, 2000)
    p = np.clip(p, 0.01, 0.99)
    x = np.log(p / (1 - p))[:, None]
    rows = weights(3, len(p))
    line = calibration.line(truth, p, rows, start=calibration.line(truth, p))
    for r, row in enumerate(rows):
        fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-12).fit(x, truth, sample_weight=row)
        assert line.slope[r] == pytest.approx(fitted.coef_[0, 0], abs=1e-9)
        assert line.joint_intercept[r] == pytest.approx(fitted.intercept_[0], abs=1e-9)
        level = optimize.brentq(
            lambda a, row=row: (row * (truth - 1 / (1 + np.exp(-a - x[:, 0])))).sum(), -9, 9, xtol=1e-14
        )
        assert line.intercept[r] == pytest.approx(level, abs=1e-9)


def test_a_known_miscalibration_is_found() -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(-1, 1.5, 200_000)
    truth = rng.random(len(logits)) < 1 / (1 + np.exp(-(0.6 * logits - 0.3)))
    line = calibration.line(truth, 1 / (1 + np.exp(-logits)))
    assert (line.slope[0], line.joint_intercept[0]) == pytest.approx((0.6, -0.3), abs=0.03)


def test_where_there_is_no_line() -> None:
    truth, p = np.array([False, False, True, True]), np.array([0.1, 0.2, 0.3, 0.4])
    assert np.isnan(calibration.line(truth, p).slope[0]) and np.isnan(calibration.line(~truth, p).slope[0])
    # But for a tie: still no maximum.
    assert np.isnan(calibration.line(truth, np.array([0.1, 0.3, 0.3, 0.4])).slope[0])
    same = calibration.line(truth, np.full(4, 0.2))
    assert np.isnan(same.slope[0]) and same.intercept[0] == pytest.approx(np.log(4), abs=1e-10)
    for y in (np.zeros(4, bool), np.ones(4, bool)):
        assert np.isnan(calibration.line(y, p, np.ones((2, 4))).intercept).all()
    assert np.isnan(calibration.line(np.zeros(0, bool), np.zeros(0)).slope).all()


def test_sure_and_right_still_has_an_intercept() -> None:
    """Odds of e^-36, of which a difference from 1 keeps one digit: three yes to one no shift them by half of log 3."""
    line = calibration.line(np.array([True, True, True, False]), np.array([1.0, 1.0, 1.0, 0.0]))
    assert line.intercept[0] == pytest.approx(np.log(3) / 2, abs=1e-10) and np.isnan(line.slope[0])


def test_far_probabilities_converge() -> None:
    """Sure mistakes among sure predictions: full Newton steps would run away from the start at 0 and 1."""
    p = np.array([0.0] * 50 + [1.0] * 50 + [0.5])
    truth = np.array([True] * 20 + [False] * 30 + [True] * 30 + [False] * 20 + [True])
    line = calibration.line(truth, p)
    x = np.log(np.clip(p, 2.0**-52, 1 - 2.0**-52)) - np.log1p(-np.clip(p, 2.0**-52, 1 - 2.0**-52))
    assert np.abs(gradient(truth, x, line.joint_intercept[0], line.slope[0])).max() < 1e-10
    assert abs(gradient(truth, x, line.intercept[0], 1.0)[0]) < 1e-10
