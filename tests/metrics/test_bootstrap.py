"""Intervals over subjects: equal to a naive loop, honest about too little data, and of the coverage they claim."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ehrjax.core.errors import InputError
from ehrjax.metrics import bootstrap


def test_every_resample_draws_as_many_subjects_as_there_are() -> None:
    counts = bootstrap.resample_counts(37, resamples=300, seed=5)
    assert counts.shape == (300, 37) and (counts.sum(1) == 37).all()
    # Each count is binomial(37, 1/37): variance 36/37.
    assert abs(counts.mean() - 1) < 1e-12 and abs(counts.var() - 36 / 37) < 0.05
    assert np.array_equal(counts, bootstrap.resample_counts(37, resamples=300, seed=5))
    assert not np.array_equal(counts, bootstrap.resample_counts(37, resamples=300, seed=6))


@settings(max_examples=25, deadline=None)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(2, 12), st.integers(1, 3)), elements=st.integers(0, 5)),
    st.integers(0, 1000),
)
def test_ratios_equal_a_loop_over_resamples(hits: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, len(hits)).astype(float)
    estimates = bootstrap.ratios(hits, weights, resamples=50, seed=seed)
    drawn = bootstrap.resample_counts(len(hits), resamples=50, seed=seed)
    for k, estimate in enumerate(estimates):
        samples = []
        for row in drawn:
            chosen = np.repeat(np.arange(len(hits)), row)
            samples.append(hits[chosen, k].sum() / weights[chosen].sum())
        low, high = np.quantile(samples, [0.025, 0.975])
        assert estimate.value == pytest.approx(hits[:, k].sum() / weights.sum(), abs=1e-12)
        assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=1e-12)
        assert estimate.subjects == len(hits)


def test_subjects_without_weight_change_nothing() -> None:
    rng = np.random.default_rng(0)
    hits, weights = rng.random((20, 2)), rng.random(20) + 0.5
    more = np.concatenate([hits, np.zeros((7, 2))]), np.concatenate([weights, np.zeros(7)])
    assert bootstrap.ratios(hits, weights) == bootstrap.ratios(*more)


def test_too_little_to_say() -> None:
    one = bootstrap.ratios(np.array([[3.0]]), np.array([4.0]))[0]
    assert one.value == 0.75 and one.low is None and one.high is None and one.subjects == 1
    none = bootstrap.ratios(np.zeros((0, 2)), np.zeros(0))
    assert [e.as_dict() for e in none] == [{"value": None, "low": None, "high": None, "subjects": 0}] * 2
    silent = bootstrap.ratios(np.zeros((5, 1)), np.zeros(5))[0]
    assert silent.as_dict()["value"] is None and silent.subjects == 0


def test_a_column_that_few_subjects_have() -> None:
    """A denominator of its own a column: the interval rests on the subjects that have it."""
    hits = np.array([[1.0, 1.0], [2.0, 0.0], [3.0, 0.0]])
    weights = np.array([[2.0, 1.0], [4.0, 0.0], [6.0, 0.0]])
    both = bootstrap.ratios(hits, weights)
    assert both[0].value == 0.5 and both[0].low == both[0].high == 0.5
    assert both[1].value == 1.0 and both[1].low is None and both[1].subjects == 1


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(1)
    weights = rng.integers(1, 30, 60).astype(float)
    base = rng.random((60, 1)) * weights[:, None]
    (same,) = bootstrap.ratio_differences(base, base, weights)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    (shifted,) = bootstrap.ratio_differences(base + 0.1 * weights[:, None], base, weights)
    assert (shifted.value, shifted.low, shifted.high) == pytest.approx((0.1, 0.1, 0.1))
    (wide,) = bootstrap.ratios(base, weights)
    assert wide.high - wide.low > 0.01, "each side alone is uncertain, the difference is not"


def test_what_a_subject_repeats_is_not_evidence() -> None:
    """Perfectly correlated targets: resampling subjects gives an interval as wide as one target a subject."""
    rng = np.random.default_rng(2)
    outcome = (rng.random(100) < 0.4).astype(float)
    once = bootstrap.ratios(outcome[:, None], np.ones(100))[0]
    repeated = bootstrap.ratios(20 * outcome[:, None], 20 * np.ones(100))[0]
    assert (once.low, once.high) == pytest.approx((repeated.low, repeated.high))
    split = bootstrap.ratios(np.repeat(outcome, 20)[:, None], np.ones(2000))[0]
    assert (split.high - split.low) < 0.4 * (repeated.high - repeated.low)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """400 data sets of 80 subjects with unequal, correlated targets; binomial error of the coverage: 1.1 points."""
    rng = np.random.default_rng(3)
    truth, covered = 0.3, 0
    for trial in range(400):
        size = rng.integers(1, 20, 80)
        rate = rng.beta(3, 7, 80)  # mean 0.3, independent of the size
        hits = rng.binomial(size, rate).astype(float)
        estimate = bootstrap.ratios(hits[:, None], size.astype(float), resamples=400, seed=trial)[0]
        covered += estimate.low <= truth <= estimate.high
    assert 0.91 <= covered / 400 <= 0.98


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.integers(1, 3), st.integers(0, 1000))
def test_denominators_of_their_own_equal_a_loop(subjects: int, columns: int, seed: int) -> None:
    """A column counts the subjects that have it; resamples in which nobody has it say nothing."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 6, (subjects, columns)) * (rng.random((subjects, columns)) < 0.6).astype(float)
    hits = rng.random((subjects, columns)) * weights
    used = weights.any(axis=1)
    estimates = bootstrap.ratios(hits, weights, resamples=60, seed=seed)
    assert len(estimates) == columns
    drawn = bootstrap.resample_counts(int(used.sum()), resamples=60, seed=seed) if used.any() else []
    for k, estimate in enumerate(estimates):
        having = int((weights[:, k] > 0).sum())
        assert estimate.subjects == having
        if not having:
            assert estimate.as_dict() == {"value": None, "low": None, "high": None, "subjects": 0}
            continue
        assert estimate.value == pytest.approx(hits[:, k].sum() / weights[:, k].sum(), abs=1e-12)
        if having < 2:
            assert estimate.low is None and estimate.high is None
            continue
        samples = []
        for row in drawn:
            chosen = np.repeat(np.flatnonzero(used), row)
            if weights[chosen, k].any():
                samples.append(hits[chosen, k].sum() / weights[chosen, k].sum())
        expected = np.quantile(samples, [0.025, 0.975])
        np.testing.assert_allclose((estimate.low, estimate.high), expected, rtol=0, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 1000))
def test_subjects_without_weight_do_not_matter_wherever_they_stand(has: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    has = np.array(has)
    weights = rng.integers(1, 9, len(has)) * has.astype(float)
    hits = rng.random((len(has), 2)) * weights[:, None]
    pairs = zip(bootstrap.ratios(hits, weights, resamples=30), bootstrap.ratios(hits[has], weights[has], resamples=30))
    assert all(a.as_dict() == b.as_dict() for a, b in pairs)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    rng = np.random.default_rng(4)
    hits, weights = rng.random((40, 1)), np.ones(40)
    wide, narrow = (bootstrap.ratios(hits, weights, level=level)[0] for level in (0.95, 0.5))
    assert wide.low < narrow.low < wide.value < narrow.high < wide.high


def test_a_difference_is_that_of_the_resamples() -> None:
    """Both sides of a difference rest on the same drawn subjects."""
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 30, 25).astype(float)
    model, other = rng.random((2, 25, 1)) * weights[None, :, None]
    (estimate,) = bootstrap.ratio_differences(model, other, weights, resamples=80, seed=9)
    samples = []
    for row in bootstrap.resample_counts(25, resamples=80, seed=9):
        chosen = np.repeat(np.arange(25), row)
        total = weights[chosen].sum()
        samples.append(model[chosen, 0].sum() / total - other[chosen, 0].sum() / total)
    expected = np.quantile(samples, [0.025, 0.975])
    np.testing.assert_allclose((estimate.low, estimate.high), expected, rtol=0, atol=1e-12)
    assert estimate.value == pytest.approx((model.sum() - other.sum()) / weights.sum(), abs=1e-12)


def test_resamples_of_a_population_weigh_its_rows() -> None:
    rows = np.array([30, 10, 30, 20, 10])
    drawn = bootstrap.Resamples.of(np.array([20, 10, 30, 40, 10]), resamples=130, seed=4)
    assert drawn.subjects.tolist() == [10, 20, 30, 40]
    assert np.array_equal(drawn.counts, bootstrap.resample_counts(4, resamples=130, seed=4))
    expected = drawn.counts[:, [2, 0, 2, 1, 0]]
    for size in (7, 64, 1000):
        chunks = list(drawn.chunks(rows, size))
        assert max(len(weights) for _, weights in chunks) <= size
        assert np.array_equal(np.concatenate([weights for _, weights in chunks]), expected)
        for part, weights in chunks:
            assert weights.dtype == np.float64 and np.array_equal(weights, expected[part])
    assert np.array_equal(np.concatenate([weights for _, weights in drawn.chunks()]), drawn.counts)
    values = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(drawn.sums(values, rows), expected @ values, atol=1e-12)


def test_resamples_of_nobody_and_of_strangers() -> None:
    nobody = bootstrap.Resamples.of(np.zeros(0, np.int64), resamples=5)
    assert nobody.counts.shape == (5, 0) and nobody.sums(np.zeros((0, 2)), np.zeros(0, int)).tolist() == [[0, 0]] * 5
    for stranger in (5, 15, 99):
        with pytest.raises(InputError, match=f"subject {stranger} "):
            bootstrap.Resamples.of(np.array([10, 20])).places(np.array([10, stranger]))
