"""Whether 95 % intervals contain the truth 95 times in 100."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ehrjax.metrics import discrimination
from ehrjax.metrics.bootstrap import ratios


def test_the_interval_of_the_auroc_covers_the_truth() -> None:
    """2,000 data sets of 500 subjects, a fifth yes, of normal scores; the coverage is known to half a point.

    300 resamples rather than 1,000: their quantiles are noisier, which costs less than half a point.
    """
    rng = np.random.default_rng(0)
    shift, trials, subjects = 1.0, 2000, np.arange(500)
    truth_of_it = stats.norm.cdf(shift / np.sqrt(2))
    covered, above = 0, 0
    for trial in range(trials):
        truth = rng.random(500) < 0.2
        scores = rng.normal(size=500) + shift * truth
        (estimate,), _ = discrimination.aurocs(truth, scores[None], subjects, resamples=300, seed=trial)
        covered += estimate.low <= truth_of_it <= estimate.high
        above += estimate.low > truth_of_it
    assert 0.93 <= covered / trials <= 0.97
    # Misses on both sides: an interval that is merely wide enough could be all on one.
    assert 0.01 <= above / trials <= 0.05 and 0.01 <= 1 - (covered + above) / trials <= 0.05


def test_intervals_cover_where_subjects_have_several_labels() -> None:
    """2,000 data sets of 200 subjects with 1 to 5 labels that share most of their score, and two models of them.

    The AUROC, the Brier score, and the paired difference of two AUROCs. Intervals over resampled labels cover the AUROC
    90 times in 100 here.
    """
    rng = np.random.default_rng(1)
    trials, people, share, shifts = 2000, 200, 2.0, (1.5, 1.0)
    spread = np.sqrt(2 * (1 + share))
    aurocs = [stats.norm.cdf(shift / spread) for shift in shifts]
    prevalence, said = 0.3, 0.4
    brier = prevalence * (1 - said) ** 2 + (1 - prevalence) * said**2
    covered = dict.fromkeys(("auroc", "difference", "brier"), 0)
    for trial in range(trials):
        subjects = np.repeat(np.arange(people), rng.integers(1, 6, people))
        own = rng.normal(size=people)[subjects]
        # Whoever is ill once often is again: so are the labels of one subject alike too.
        ill = 0.7 * rng.normal(size=people)[subjects] + np.sqrt(0.51) * rng.normal(size=len(own))
        truth = stats.norm.cdf(ill) < prevalence
        noise = np.sqrt(share) * own + rng.normal(size=len(own))
        scores = np.stack([noise + shift * truth for shift in shifts])
        found, drawn = discrimination.aurocs(truth, scores, subjects, resamples=300, seed=trial)
        covered["auroc"] += found[0].low <= aurocs[0] <= found[0].high
        low, high = discrimination.interval(drawn[0] - drawn[1])
        covered["difference"] += low <= aurocs[0] - aurocs[1] <= high
        (estimate,) = ratios(
            np.bincount(subjects, (said - truth) ** 2)[:, None], np.bincount(subjects), resamples=300, seed=trial
        )
        covered["brier"] += estimate.low <= brier <= estimate.high
    for name, count in covered.items():
        assert 0.93 <= count / trials <= 0.97, (name, count / trials)
