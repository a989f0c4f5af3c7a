"""What yes-or-no decisions at a threshold are worth; predicted yes means probability >= threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.metrics.bootstrap import ratio, row_weights

DEFAULT = 0.5


def best_f1(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """The threshold of greatest F1 (van Rijsbergen 1979): one of the predicted probabilities.

    To be chosen on tuning, never on the rows that are reported.

    Args:
      truth: [N] bool.
      probabilities: [N] float, without NaN.

    Returns:
      The largest of the thresholds with the greatest F1; 0.5 where there is no yes to find.
    """
    truth, probabilities = np.asarray(truth, bool), np.asarray(probabilities, np.float64)
    if not truth.any():
        return DEFAULT
    levels, place = np.unique(-probabilities, return_inverse=True)
    found = np.cumsum(np.bincount(place, truth, minlength=len(levels)))
    asked = np.cumsum(np.bincount(place, minlength=len(levels)))
    # Quotients of whole numbers: equal fractions are equal floats, and the first of them has the largest threshold.
    return float(-levels[np.argmax(2 * found / (asked + truth.sum()))])


def confusion(truth: np.ndarray, probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """[N, 4] float64, one 1 a row: true positive, false positive, false negative, true negative."""
    truth, said = np.asarray(truth, bool), np.asarray(probabilities) >= threshold
    return np.stack([truth & said, ~truth & said, truth & ~said, ~truth & ~said], axis=1).astype(np.float64)


def rates(sums: np.ndarray) -> dict[str, np.ndarray]:
    """Ratios of the sums of `confusion`.

    Args:
      sums: [R, 4] of weights.

    Returns:
      accuracy, f1, sensitivity, specificity and ppv (positive predictive value), each [R]; NaN where nothing is counted
      below the line. F1 is NaN too where there is no yes, since it then has no sensitivity (scikit-learn says 0).
    """
    hit, false, missed, passed = np.asarray(sums, np.float64).T
    return {
        "accuracy": ratio(hit + passed, hit + false + missed + passed),
        "f1": np.where(hit + missed > 0, ratio(2 * hit, 2 * hit + false + missed), np.nan),
        "sensitivity": ratio(hit, hit + missed),
        "specificity": ratio(passed, false + passed),
        "ppv": ratio(hit, hit + false),
    }


def at(
    truth: np.ndarray, probabilities: np.ndarray, threshold: float, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The `rates` at a threshold.

    Args:
      truth: [N] bool.
      probabilities: [N] float.
      threshold: yes from here on.
      weights: [R, N] of each row; None: one weighting in which all count once.
    """
    return rates(row_weights(weights, len(truth)) @ confusion(truth, probabilities, threshold))


@dataclass(frozen=True)
class NetBenefit:
    """A decision curve. Doing nothing for anybody has net benefit 0 at every threshold.

    Attributes:
      thresholds: [T].
      model: [R, T] of treating whom the model says.
      treat_all: [R, T] of treating everybody.
      treat_none: [T] zeros.
    """

    thresholds: np.ndarray
    model: np.ndarray
    treat_all: np.ndarray
    treat_none: np.ndarray


def net_benefit(
    truth: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None = None
) -> NetBenefit:
    """True positives less false positives at their price t / (1 - t), a row (Vickers and Elkin 2006).

    Args:
      truth: [N] bool.
      probabilities: [N] float.
      thresholds: [T], each at least 0 and below 1.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      The curves; NaN where a weighting has no rows.

    Raises:
      InputError: a threshold is not in [0, 1).
    """
    thresholds = np.atleast_1d(np.asarray(thresholds, np.float64))
    weights = row_weights(weights, len(truth))
    total = weights.sum(axis=1, keepdims=True)
    model = ratio(weights @ worth(truth, probabilities, thresholds), total)
    everybody = ratio(weights @ worth(truth, np.ones(len(truth)), thresholds), total)
    return NetBenefit(thresholds, model, everybody, np.zeros(len(thresholds)))


def worth(truth: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """[N, T] float64: each row's part of the net benefit of treating whom the model says, at each threshold [T].

    Raises:
      InputError: a threshold is not in [0, 1).
    """
    if not ((thresholds >= 0) & (thresholds < 1)).all():
        raise InputError("a threshold of a decision curve is outside [0, 1); choose probabilities below 1")
    gained = np.where(np.asarray(truth, bool)[:, None], 1.0, -thresholds / (1 - thresholds))
    return gained * (np.asarray(probabilities, np.float64)[:, None] >= thresholds)
