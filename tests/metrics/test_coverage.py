"""Whether 95 % intervals contain the truth 95 times in 100."""

from __future__ import annotations

import numpy as np
from scipy import stats

from ehrjax.metrics import discrimination


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
