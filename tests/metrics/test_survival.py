"""Times to an event against scikit-survival, ties included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sksurv import metrics, nonparametric, util
from sksurv.exceptions import NoComparablePairException

from ehrjax.core.errors import InputError
from ehrjax.metrics import survival
from tests.metrics.drawn import SEEDS, repeated, weights

Rows = tuple[np.ndarray, np.ndarray]


def drawn(seed: int) -> tuple[Rows, Rows, np.ndarray]:
    """Train and test times and events, and risks; each tied or not. Train is followed for longer than test."""
    rng = np.random.default_rng(seed)
    tied, count = rng.random() < 0.5, int(rng.integers(2, 50))
    sets = []
    for size in (150, count):
        times = rng.integers(1, 12, size).astype(float) if tied else rng.exponential(100, size)
        sets.append((times, rng.random(size) < rng.choice([0.1, 0.6, 1.0])))
    train, test = sets
    train[0][0], train[1][0] = max(train[0].max(), test[0].max()) + 1, False
    risk = rng.integers(0, 4, count).astype(float) if rng.random() < 0.5 else rng.normal(size=count)
    if rng.random() < 0.5:
        # Within and just beyond the tolerance of ties.
        risk = np.round(risk) + rng.choice([0.0, 0.6e-8, 1.2e-8], count)
    return train, test, risk


def survived(rows: Rows) -> np.ndarray:
    return util.Surv.from_arrays(rows[1], rows[0])


@settings(deadline=None)
@given(SEEDS)
def test_concordance_is_scikit_survival_s(seed: int) -> None:
    train, (times, events), risk = drawn(seed)
    rows = np.concatenate([np.ones((1, len(times))), weights(seed, len(times))])
    censoring, tau = survival.Censoring.of(*train), float(np.quantile(times, 0.7))
    harrell = survival.harrell_c(times, events, risk, rows)
    unos = {t: survival.uno_c(times, events, risk, censoring, t, rows) for t in (None, tau)}
    for r, row in enumerate(rows):
        own = repeated(row)
        test = times[own], events[own]
        try:
            with np.errstate(invalid="ignore"):
                expected = metrics.concordance_index_censored(test[1], test[0], risk[own])[0]
        except (ValueError, NoComparablePairException):
            assert np.isnan(harrell[r])
            continue
        with np.errstate(invalid="ignore"):
            assert harrell[r] == pytest.approx(float(expected), abs=1e-9, nan_ok=True)
            for t, values in unos.items():
                # scikit-survival refuses samples without an event.
                if not test[1][test[0] < (np.inf if t is None else t)].any():
                    assert np.isnan(values[r])
                else:
                    expected = metrics.concordance_index_ipcw(survived(train), survived(test), risk[own], t)[0]
                    assert values[r] == pytest.approx(float(expected), abs=1e-9, nan_ok=True)


@settings(deadline=None)
@given(SEEDS)
def test_each_horizon_has_a_risk_of_its_own_as_scikit_survival_has_it(seed: int) -> None:
    train, test, _ = drawn(seed)
    horizons = np.unique(np.quantile(test[0], [0.3, 0.5, 0.8]))
    risks = np.random.default_rng(seed).normal(size=(len(test[0]), len(horizons)))
    if not test[1].any() or horizons[-1] >= test[0].max() or horizons[0] < test[0].min():
        return  # scikit-survival refuses these
    aucs = survival.dynamic_aucs(*test, risks, survival.Censoring.of(*train), horizons)
    with np.errstate(invalid="ignore"):
        each, _ = metrics.cumulative_dynamic_auc(survived(train), survived(test), risks, horizons)
    np.testing.assert_allclose(aucs[0], each, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(SEEDS)
def test_dynamic_aucs_are_scikit_survival_s(seed: int) -> None:
    train, (times, events), risk = drawn(seed)
    if not (seed % 3):
        risk = np.round(risk)
    rows = np.concatenate([np.ones((1, len(times))), weights(seed, len(times))])
    horizons = np.unique(np.quantile(times, [0.3, 0.5, 0.8]))
    censoring = survival.Censoring.of(*train)
    # A resample may break a chain of risks each tied with the next; rounded and whole samples have no such chains.
    rows = rows if not (seed % 3) else rows[:1]
    aucs = survival.dynamic_aucs(times, events, risk, censoring, horizons, rows)
    means = survival.mean_dynamic_auc(aucs, times, events, horizons, rows)
    predicted = np.random.default_rng(seed).random((len(times), len(horizons)))
    briers = survival.brier_scores(times, events, predicted, censoring, horizons, rows)
    for r, row in enumerate(rows):
        own = repeated(row)
        test = times[own], events[own]
        # scikit-survival refuses samples without an event and times beyond follow-up.
        if not test[1].any() or horizons[-1] >= test[0].max() or horizons[0] < test[0].min():
            continue
        with np.errstate(invalid="ignore"):
            each, mean = metrics.cumulative_dynamic_auc(survived(train), survived(test), risk[own], horizons)
        np.testing.assert_allclose(aucs[r], each, rtol=0, atol=1e-9)
        assert means[r] == pytest.approx(mean, abs=1e-9, nan_ok=True)
        _, expected = metrics.brier_score(survived(train), survived(test), predicted[own], horizons)
        np.testing.assert_allclose(briers[r], expected, rtol=1e-9)
        if len(horizons) > 1:
            whole = metrics.integrated_brier_score(survived(train), survived(test), predicted[own], horizons)
            assert survival.integrated_brier(briers, horizons)[r] == pytest.approx(whole, rel=1e-9)


@settings(deadline=None)
@given(SEEDS)
def test_kaplan_meier_of_events_and_of_censoring(seed: int) -> None:
    train, (times, events), _ = drawn(seed)
    rows, at = weights(seed, len(times)), np.array([0.0, *np.quantile(times, [0.2, 0.6, 1.0])])
    for row, values in zip(rows, survival.kaplan_meier(times, events, at, rows)):
        own = repeated(row)
        if len(own):
            moments, left = nonparametric.kaplan_meier_estimator(events[own], times[own])
            expected = np.concatenate([[1.0], left])[np.searchsorted(moments, at, side="right")]
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)
    expected = nonparametric.CensoringDistributionEstimator().fit(survived(train)).predict_proba(times)
    np.testing.assert_allclose(survival.Censoring.of(*train).probability(times), expected, rtol=0, atol=1e-9)


def test_concordance_is_a_loop_over_pairs_of_weights() -> None:
    """Weights that are no whole numbers: a pair has the product of its two."""
    _, (times, events), risk = drawn(5)
    row = np.random.default_rng(0).random(len(times))
    won = pairs = 0.0
    for i in np.flatnonzero(events):
        for j in range(len(times)):
            if times[j] > times[i] or (times[j] == times[i] and not events[j]):
                tied = abs(risk[i] - risk[j]) <= 1e-8
                pairs += row[i] * row[j]
                won += row[i] * row[j] * (0.5 if tied else float(risk[j] < risk[i]))
    assert survival.harrell_c(times, events, risk, row[None])[0] == pytest.approx(won / pairs, abs=1e-12)


def test_without_events_nothing_is_comparable() -> None:
    times, never = np.array([1.0, 2.0, 3.0]), np.zeros(3, bool)
    censoring = survival.Censoring.of(times, never)
    for events, some in ((never, times), (np.zeros(0, bool), np.zeros(0))):
        assert np.isnan(survival.harrell_c(some, events, some)).all()
        assert np.isnan(survival.uno_c(some, events, some, censoring)).all()
        assert np.isnan(survival.dynamic_aucs(some, events, some, censoring, np.array([2.0]))).all()
    # The last event has nobody after it, and the two events at one time are not comparable.
    assert np.isnan(survival.harrell_c(np.array([1.0, 2.0]), np.array([False, True]), np.arange(2.0)))[0]
    assert np.isnan(survival.harrell_c(np.ones(2), np.ones(2, bool), np.arange(2.0)))[0]


def test_what_train_does_not_know() -> None:
    events = np.ones(3, bool)
    short = survival.Censoring.of(np.array([1.0, 2.0]), events[:2])
    with pytest.raises(InputError, match="follow-up ends at 2 days"):
        survival.uno_c(np.array([1.0, 3.0, 4.0]), events, np.arange(3.0), short)
    assert survival.uno_c(np.array([1.0, 3.0, 4.0]), events, -np.arange(3.0), short, tau=2.0)[0] == 1
    lost = survival.Censoring.of(np.array([1.0, 2.0]), np.zeros(2, bool))
    with pytest.raises(InputError, match="all of train were censored"):
        survival.uno_c(np.array([1.0, 3.0, 4.0]), events, np.arange(3.0), lost)
    with pytest.raises(InputError, match="without rows"):
        survival.Censoring.of(np.zeros(0), np.zeros(0, bool))


@pytest.mark.parametrize("scale", [1e-12, 1e-7, 1e-3, 1e4])
def test_the_scale_of_a_risk_means_nothing(scale: float) -> None:
    rng = np.random.default_rng(4)
    times, events, risk = rng.exponential(100, 300), rng.random(300) < 0.6, rng.random(300)
    censoring, horizons = (
        survival.Censoring.of(np.append(times, 1e5), np.append(events, False)),
        np.array([50.0, 120.0]),
    )
    plain, scaled = (
        (survival.harrell_c(times, events, own), survival.dynamic_aucs(times, events, own, censoring, horizons))
        for own in (risk, risk * scale)
    )
    np.testing.assert_allclose(scaled[0], plain[0], rtol=1e-12)
    np.testing.assert_allclose(scaled[1], plain[1], rtol=1e-12)
    assert np.ptp(plain[1]) > 0 and not np.isclose(plain[0], 0.5)
