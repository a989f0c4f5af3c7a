"""Intervals by resampling subjects: what one subject's targets share must not count as independent evidence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
_CHUNK = 64


@dataclass(frozen=True)
class Estimate:
    """A number and its interval; the interval is None where there is too little to say.

    Attributes:
      value: the estimate; NaN where there is nothing to count.
      low, high: the interval's ends, or None.
      subjects: how many subjects contributed.
    """

    value: float
    low: float | None
    high: float | None
    subjects: int

    def as_dict(self) -> dict[str, float | int | None]:
        """The same as JSON values (NaN becomes None)."""
        value = None if np.isnan(self.value) else float(self.value)
        return {"value": value, "low": self.low, "high": self.high, "subjects": self.subjects}


def resample_counts(subjects: int, *, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each subject is drawn in each resample, [resamples, subjects] int32; rows add up to `subjects`."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    counts = np.zeros((resamples, subjects), np.int32)
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        drawn = generator.integers(0, subjects, size=(rows, subjects))
        flat = drawn + np.arange(rows)[:, None] * subjects
        counts[start : start + rows] = np.bincount(flat.ravel(), minlength=rows * subjects).reshape(rows, subjects)
    return counts


def ratios(
    hits: np.ndarray, weights: np.ndarray, *, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> list[Estimate]:
    """Ratios of sums (accuracies, mean losses), each with a percentile interval over resampled subjects.

    Args:
      hits: [subjects, K] float: per subject, the numerators of K ratios.
      weights: [subjects] or [subjects, K]: the denominators.
      resamples: how many.
      level: the interval's coverage.
      seed: the same seed draws the same subjects, so differences of ratios are paired.

    Returns:
      K estimates. With fewer than two contributing subjects the interval is None.
    """
    hits = np.asarray(hits, np.float64)
    weights = np.asarray(weights, np.float64)
    weights = np.broadcast_to(weights[:, None] if weights.ndim == 1 else weights, hits.shape)
    used = weights.any(axis=1)
    hits, weights = hits[used], weights[used]
    if not len(hits):
        return [Estimate(float("nan"), None, None, 0) for _ in range(hits.shape[1])]
    totals = weights.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = hits.sum(0) / totals
        drawn = resample_counts(len(hits), resamples=resamples, seed=seed).astype(np.float64)
        samples = (drawn @ hits) / (drawn @ weights)
    estimates = []
    for k, value in enumerate(values):
        subjects = int(np.count_nonzero(weights[:, k]))
        finite = samples[:, k][np.isfinite(samples[:, k])]
        if subjects < 2:
            estimates.append(Estimate(float(value), None, None, subjects))
        else:
            low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
            estimates.append(Estimate(float(value), float(low), float(high), subjects))
    return estimates


def ratio_differences(hits: np.ndarray, others: np.ndarray, weights: np.ndarray, **options: float) -> list[Estimate]:
    """Differences of ratios with the same denominators (model minus baseline), paired by subject.

    Args:
      hits, others: [subjects, K] numerators of the two sides.
      weights: [subjects] or [subjects, K].
      options: resamples, level and seed of `ratios`.
    """
    return ratios(np.asarray(hits, np.float64) - np.asarray(others, np.float64), weights, **options)
