"""How far predicted numbers are from the true ones: ratios of sums over rows."""

from __future__ import annotations

import numpy as np

from ehrjax.metrics.bootstrap import ratio, row_weights

# A variance this much smaller than the squares it is the difference of is rounding, not spread.
_ROUNDING = 1e-12


def columns(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """[N, 5] float64, what is summed over rows: 1, |error|, error^2, and the truth less its mean with its square."""
    truth, predicted = np.asarray(truth, np.float64), np.asarray(predicted, np.float64)
    error = predicted - truth
    # About the mean, so that the variance is no small difference of large numbers.
    centred = truth - truth.mean() if len(truth) else truth
    return np.stack([np.ones(len(truth)), np.abs(error), error**2, centred, centred**2], axis=1)


def of_sums(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of weighted sums of `columns`.

    Args:
      sums: [R, 5].

    Returns:
      mae, rmse and r2, each [R]; NaN where a weighting has no rows, R2 also where all its true values are equal.
    """
    total, absolute, squared, first, second = np.asarray(sums, np.float64).T
    spread = second - np.nan_to_num(ratio(first**2, total))
    spread = np.where(spread > _ROUNDING * second, spread, 0.0)
    return {
        "mae": ratio(absolute, total),
        "rmse": np.sqrt(ratio(squared, total)),
        "r2": 1 - ratio(squared, spread),
    }


def errors(truth: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Mean absolute error, root mean squared error, and R2 about the weighted mean of the true values.

    Args:
      truth: [N] float.
      predicted: [N] float.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      mae, rmse and r2 of `of_sums`.
    """
    return of_sums(row_weights(weights, len(truth)) @ columns(truth, predicted))
