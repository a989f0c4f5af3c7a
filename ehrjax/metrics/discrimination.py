"""How well scores tell yes from no: the area under the ROC curve, for many weightings at once."""

from __future__ import annotations

import numpy as np

from ehrjax.metrics.bootstrap import LEVEL, RESAMPLES, Estimate, resample_counts

_CHUNK = 50


def auroc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The probability that a yes scores above a no, ties counting half (Hanley and McNeil 1982).

    Args:
      truth: [N] bool.
      scores: [N] float, without NaN.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R] float64; NaN where a weighting has only one class.
    """
    truth, scores = np.asarray(truth, bool), np.asarray(scores, np.float64)
    weights = np.ones((1, len(truth))) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(scores, kind="stable")
    truth, scores, weights = truth[order], scores[order], weights[:, order]
    starts = np.flatnonzero(np.concatenate([[True], scores[1:] != scores[:-1]])) if len(scores) else np.zeros(0, int)
    if not len(starts):
        return np.full(len(weights), np.nan)
    yes = np.add.reduceat(weights * truth, starts, axis=1)
    no = np.add.reduceat(weights * ~truth, starts, axis=1)
    below = np.cumsum(no, axis=1) - no
    pairs = yes.sum(axis=1) * no.sum(axis=1)
    won = (yes * (below + 0.5 * no)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)


def aurocs(
    truth: np.ndarray,
    scores: np.ndarray,
    subjects: np.ndarray,
    *,
    population: np.ndarray | None = None,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> tuple[list[Estimate], np.ndarray]:
    """The AUROCs of several scores of the same labels, with intervals over resampled subjects.

    Args:
      truth: [N] bool.
      scores: [K, N] float.
      subjects: [N] whose label it is.
      population: subjects to resample, where others than those with labels are among them; then several tasks of one
        population and seed are resampled together, and what is computed across them is paired too.
      resamples: how many.
      level: the intervals' coverage.
      seed: the same seed draws the same subjects.

    Returns:
      K estimates, and [K, resamples] the resampled values, whose differences are paired; NaN where a resample has one
      class.
    """
    own = np.unique(subjects)
    names = own if population is None else np.unique(population)
    index = np.searchsorted(names, subjects)
    counts = resample_counts(len(names), resamples=resamples, seed=seed)
    drawn = np.full((len(scores), resamples), np.nan)
    for start in range(0, resamples, _CHUNK):
        weights = counts[start : start + _CHUNK][:, index]
        for k, row in enumerate(scores):
            drawn[k, start : start + _CHUNK] = auroc(truth, row, weights)
    found = []
    for row, values in zip(scores, drawn):
        ends = interval(values, level) if len(own) > 1 else (None, None)
        found.append(Estimate(float(auroc(truth, row)[0]), *ends, len(own)))
    return found, drawn


def interval(values: np.ndarray, level: float = LEVEL) -> tuple[float | None, float | None]:
    """The percentile interval of resampled values, NaN left out; (None, None) where nothing is left."""
    kept = values[~np.isnan(values)]
    if not len(kept):
        return None, None
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
