"""How well probabilities of several classes tell them apart, and how far they are from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ehrjax.metrics.bootstrap import mean_defined, ratio, row_weights
from ehrjax.metrics.discrimination import Steps

_EPS = np.finfo(np.float64).eps
_ROUNDING = 1e-12


def columns(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """[N, 9] float64, what is summed over rows.

    In turn: 1, right, log loss, Brier, and for kappa the true class t and the predicted q, their squares, (t - q)^2.
    The predicted class is the most probable one, the first of several.
    """
    truth, probabilities = np.asarray(truth, np.int64), np.asarray(probabilities, np.float64)
    rows = np.arange(len(truth))
    predicted = probabilities.argmax(axis=1)
    loss = -np.log(np.clip(probabilities[rows, truth], _EPS, 1 - _EPS))
    one_hot = np.zeros_like(probabilities)
    one_hot[rows, truth] = 1
    brier = ((probabilities - one_hot) ** 2).sum(axis=1)
    parts = [np.ones(len(truth)), predicted == truth, loss, brier, truth, predicted]
    parts += [truth**2, predicted**2, (truth - predicted) ** 2]
    return np.stack(parts, axis=1).astype(np.float64)


def of_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of weighted sums of `columns`.

    Args:
      sums: [R, 9].

    Returns:
      Each [R], NaN where a weighting has no rows:
      accuracy;
      log_loss: mean of -log of the true class's probability, clipped to [eps, 1 - eps] as scikit-learn's log_loss does
        (eps = 2.2e-16), not made to add up to 1 afterwards;
      brier: mean squared distance of the probabilities from the truth, summed over classes, from 0 to 2 (Brier 1950);
      quadratic_kappa: 1 less observed over expected squared distance of classes, numbered in their order (Cohen 1968);
        only of use where the order means something. NaN where truth and prediction are one and the same class.
    """
    total, right, loss, brier, true, said, true_2, said_2, apart = np.asarray(sums, np.float64).T
    expected = true_2 + said_2 - 2 * np.nan_to_num(ratio(true * said, total))
    expected = np.where(expected > _ROUNDING * (true_2 + said_2), expected, 0.0)
    return {
        "accuracy": ratio(right, total),
        "log_loss": ratio(loss, total),
        "brier": ratio(brier, total),
        "quadratic_kappa": 1 - ratio(apart, expected),
    }


def scores(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """The ratios of sums: accuracy, log_loss, brier and quadratic_kappa of `of_sums`.

    Args:
      truth: [N] int, 0 .. K - 1.
      probabilities: [N, K] float.
      weights: [R, N] of each row; None: one weighting in which all count once.
    """
    return of_sums(row_weights(weights, len(truth)) @ columns(truth, probabilities))


def macro_auroc(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean over classes of the AUROC of the class against the rest (Provost and Domingos 2000).

    Args:
      truth: [N] int, 0 .. K - 1.
      probabilities: [N, K] float.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R] float64: over the classes that the weighting has; NaN where it has only one.
    """
    weights, truth = row_weights(weights, len(truth)), np.asarray(truth)
    return macro_of([Steps.of(truth == k, probabilities[:, k]) for k in range(probabilities.shape[1])], weights)


def macro_of(steps: Sequence[Steps], weights: np.ndarray) -> np.ndarray:
    """`macro_auroc` for the steps of each class, made once; weights [R, C] as the steps take them."""
    return mean_defined(np.stack([step.tally(weights).auroc() for step in steps]))
