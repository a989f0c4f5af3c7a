"""How well scores tell yes from no: rank metrics, for many weightings at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ehrjax.metrics.bootstrap import LEVEL, RESAMPLES, Estimate, Resamples, ratio, row_weights


@dataclass(frozen=True)
class Tally:
    """Sums of weights at the U distinct scores of the yes, from the smallest, for R weightings.

    Attributes:
      yes: [U, R] of the yes with that score.
      below: [U, R] of the no with a smaller score.
      upto: [U, R] of the no with that score or a smaller one.
      noes: [R] of all no.
    """

    yes: np.ndarray
    below: np.ndarray
    upto: np.ndarray
    noes: np.ndarray

    def auroc(self) -> np.ndarray:
        """[R]: see `auroc`."""
        won = (self.yes * (self.below + self.upto)).sum(axis=0) / 2
        return ratio(won, self.yes.sum(axis=0) * self.noes)

    def average_precision(self) -> np.ndarray:
        """[R]: see `average_precision`."""
        found = np.cumsum(self.yes[::-1], axis=0)[::-1]
        asked = found + (self.noes - self.below)
        precision = np.divide(found, asked, out=np.zeros_like(asked), where=asked > 0)
        return ratio((self.yes * precision).sum(axis=0), self.yes.sum(axis=0))

    def sensitivity_at_specificity(self, specificity: float) -> np.ndarray:
        """[R]: see `sensitivity_at_specificity`."""
        # Divided, not multiplied out: 9 of 10 is then 0.9 to the last bit, and what is at the limit counts.
        enough = ratio(self.below, self.noes) >= specificity
        found = (self.yes * enough).sum(axis=0)
        return np.where(self.noes > 0, ratio(found, self.yes.sum(axis=0)), np.nan)


@dataclass(frozen=True)
class Steps:
    """Which weights to add up for the rank metrics of one set of labels and scores.

    Only the scores of the yes matter: the no between two of them are one sum. As sparse matrices these sums cost one
    multiplication and addition a row and weighting, without sorting or gathering weights.

    Attributes:
      yes: [U, C] sparse: row u takes the yes of the u-th smallest of the U distinct scores of the yes.
      no: [2 U + 1, C] sparse: row 2 u + 1 takes the no of that score, row 2 u those between it and the one before.
    """

    yes: sparse.csr_array
    no: sparse.csr_array

    @classmethod
    def of(
        cls,
        truth: np.ndarray,
        scores: np.ndarray,
        places: np.ndarray | None = None,
        columns: int | None = None,
        factors: np.ndarray | None = None,
    ) -> Steps:
        """The steps of N rows.

        Args:
          truth: [N] bool.
          scores: [N] float, without NaN.
          places: [N] which of the C weights is the row's (its subject's); None: each row has its own.
          columns: C; None: N.
          factors: [N] what each row's weight is multiplied by; None: 1.
        """
        truth, scores = np.asarray(truth, bool), np.asarray(scores, np.float64)
        places = np.arange(len(truth)) if places is None else places
        columns = len(truth) if columns is None else columns
        factors = np.ones(len(truth)) if factors is None else factors
        levels, step = np.unique(scores[truth], return_inverse=True)
        below = np.searchsorted(levels, scores[~truth])
        tied = np.append(levels, np.nan)[below] == scores[~truth]
        yes = (factors[truth], (step, places[truth]))
        no = (factors[~truth], (2 * below + tied, places[~truth]))
        shape = len(levels), columns
        return cls(sparse.csr_array(yes, shape=shape), sparse.csr_array(no, shape=(2 * shape[0] + 1, columns)))

    def tally(self, weights: np.ndarray) -> Tally:
        """The sums for weights [R, C]."""
        weights = np.ascontiguousarray(np.asarray(weights, np.float64).T)
        no = np.cumsum(self.no @ weights, axis=0)
        return Tally(self.yes @ weights, no[:-1:2], no[1::2], no[-1])


def auroc(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The probability that a yes scores above a no, ties counting half (Hanley and McNeil 1982).

    Args:
      truth: [N] bool.
      scores: [N] float, without NaN.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R] float64; NaN where a weighting has only one class.
    """
    return Steps.of(truth, scores).tally(row_weights(weights, len(truth))).auroc()


def average_precision(truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean over the yes of the precision at their score, as scikit-learn has it: no interpolation.

    Args:
      truth: [N] bool.
      scores: [N] float, without NaN.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R] float64; NaN where a weighting has no yes (scikit-learn says 0 there).
    """
    return Steps.of(truth, scores).tally(row_weights(weights, len(truth))).average_precision()


def sensitivity_at_specificity(
    truth: np.ndarray, scores: np.ndarray, weights: np.ndarray | None = None, specificity: float = 0.9
) -> np.ndarray:
    """The largest sensitivity of a threshold whose specificity is at least the one asked for.

    A threshold t says yes to scores >= t. All are allowed, among them one above all scores: then nobody is said yes to,
    and the sensitivity is 0. Nothing is interpolated between thresholds.

    Args:
      truth: [N] bool.
      scores: [N] float, without NaN.
      weights: [R, N] of each row; None: one weighting in which all count once.
      specificity: the least, between 0 and 1.

    Returns:
      [R] float64; NaN where a weighting has only one class.
    """
    return Steps.of(truth, scores).tally(row_weights(weights, len(truth))).sensitivity_at_specificity(specificity)


def roc_curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ROC curve for a figure, all rows counting once: false positive rate, sensitivity and thresholds, each [T].

    scikit-learn's, which leaves out the points on straight lines. All are empty where there is only one class.
    """
    from sklearn import metrics

    truth = np.asarray(truth, bool)
    if truth.all() or not truth.any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    return metrics.roc_curve(truth, scores)


def precision_recall_curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The precision-recall curve for a figure: precision [T + 1], recall [T + 1] and thresholds [T].

    scikit-learn's, from the smallest threshold to the point (1, 0). All are empty where there is no yes.
    """
    from sklearn import metrics

    truth = np.asarray(truth, bool)
    if not truth.any():
        return np.zeros(0), np.zeros(0), np.zeros(0)
    return metrics.precision_recall_curve(truth, scores)


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
    drawn_from = Resamples.of(own if population is None else population, resamples, seed)
    places = drawn_from.places(subjects)
    steps = [Steps.of(truth, row, places, len(drawn_from.subjects)) for row in scores]
    drawn = np.full((len(scores), resamples), np.nan)
    for part, weights in drawn_from.chunks():
        for k, step in enumerate(steps):
            drawn[k, part] = step.tally(weights).auroc()
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
