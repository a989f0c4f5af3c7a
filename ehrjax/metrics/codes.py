"""How well the codes that follow are ranked: many labels a row, most of them no."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ehrjax.metrics.bootstrap import mean_defined, ratio, row_weights
from ehrjax.metrics.discrimination import Steps

TOP = (1, 5, 10, 20)
MICRO = ("micro_auroc", "micro_average_precision")
MACRO = ("macro_auroc", "macro_average_precision")


def columns(truth: np.ndarray, probabilities: np.ndarray, top: Sequence[int] = TOP) -> np.ndarray:
    """[N, 2 len(top) + 2] float64, what is summed over rows; rows without a code are all 0.

    In turn: 1, recall at each k, precision at each k, and the row's average precision over its codes. Among equal
    probabilities the top k take the codes that come first; average precision treats them as one step.
    """
    truth, probabilities = np.asarray(truth, bool), np.asarray(probabilities, np.float64)
    found = np.zeros((len(truth), 2 * len(top) + 2))
    for row in np.flatnonzero(truth.any(axis=1)):
        order = np.argsort(-probabilities[row], kind="stable")
        ranked, scores = truth[row, order], probabilities[row, order]
        hits = np.cumsum(ranked)
        at = [hits[min(k, len(hits)) - 1] for k in top]
        # A step of equal probabilities ends where the next one is smaller; its codes have the precision there.
        ends = np.searchsorted(-scores, -scores[ranked], side="right")
        precision = (hits[ends - 1] / ends).mean()
        found[row] = [1.0, *(h / hits[-1] for h in at), *(h / k for h, k in zip(at, top)), precision]
    return found


def of_sums(sums: np.ndarray, top: Sequence[int] = TOP) -> dict[str, np.ndarray]:
    """The metrics of weighted sums of `columns`, means over the rows with a code, each [R]; NaN where there are none.

    recall_at_k: the share of a row's codes among the k most probable.
    precision_at_k: the share of the k most probable that are the row's.
    average_precision: of each row's ranking of codes: scikit-learn's average_precision_score(average="samples"), which
      is its label_ranking_average_precision_score where every row has a code (Schapire and Singer 2000).
    """
    sums = np.asarray(sums, np.float64)
    names = [*(f"recall_at_{k}" for k in top), *(f"precision_at_{k}" for k in top), "average_precision"]
    return {name: ratio(sums[:, i], sums[:, 0]) for i, name in enumerate(names, start=1)}


def rankings(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, top: Sequence[int] = TOP
) -> dict[str, np.ndarray]:
    """The means over rows of `of_sums`.

    Args:
      truth: [N, K] bool.
      probabilities: [N, K] float.
      weights: [R, N] of each row; None: one weighting in which all count once.
      top: the k of recall and precision.
    """
    return of_sums(row_weights(weights, len(truth)) @ columns(truth, probabilities, top), top)


def micro_steps(
    truth: np.ndarray, probabilities: np.ndarray, places: np.ndarray | None = None, columns: int | None = None
) -> Steps:
    """The steps of all pairs of row and code as one task; see Steps.of."""
    rows, size = np.asarray(truth).shape
    places = np.arange(rows) if places is None else places
    columns = rows if columns is None else columns
    return Steps.of(np.ravel(truth), np.ravel(probabilities), np.repeat(places, size), columns)


def areas(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """AUROC and average precision over codes, each [R] float64.

    Args:
      truth: [N, K] bool.
      probabilities: [N, K] float.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      micro_auroc and micro_average_precision: of all pairs of row and code as one task; NaN where it has one class.
      macro_auroc and macro_average_precision: the means over the codes that the weighting has both with and without;
        NaN where there is no such code.
    """
    weights = row_weights(weights, len(truth))
    singles = [Steps.of(truth[:, k], probabilities[:, k]) for k in range(truth.shape[1])]
    return micro(micro_steps(truth, probabilities), weights) | macro(singles, weights)


def micro(steps: Steps, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The micro half of `areas` for `micro_steps` made once; weights [R, C] as the steps take them."""
    return dict(zip(MICRO, _areas(steps, weights)))


def macro(singles: Sequence[Steps], weights: np.ndarray) -> dict[str, np.ndarray]:
    """The macro half of `areas` for the steps of each code, made once; weights [R, C] as the steps take them."""
    areas = np.full((len(singles) + 1, 2, len(weights)), np.nan)
    for k, single in enumerate(singles):
        areas[k] = _areas(single, weights)
    return dict(zip(MACRO, mean_defined(areas)))


def _areas(steps: Steps, weights: np.ndarray) -> np.ndarray:
    """[2, R]: AUROC and average precision; both NaN where there is only one class."""
    tally = steps.tally(weights)
    return np.stack([tally.auroc(), np.where(tally.noes > 0, tally.average_precision(), np.nan)])
