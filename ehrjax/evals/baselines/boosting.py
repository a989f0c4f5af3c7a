"""Gradient-boosted trees whose number, rate and size are chosen on the tuning labels."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from ehrjax.evals.baselines.outcomes import Outcomes

# (learning rate, leaves a tree)
GRID = ((0.1, 8), (0.1, 31), (0.03, 8), (0.03, 31))
# Trees at first; twice as many while tuning still gains, up to the last number.
_FIRST, _MOST = 100, 800
_L2 = 1.0
# The share of columns that a split may choose from: faster, and trees differ more.
_COLUMNS = 0.3
# From so many numbers on, trees take hours: then the first of the grid alone, and a smaller share.
_MANY, _COLUMNS_OF_MANY = 50_000_000, 0.1

Model = HistGradientBoostingClassifier | HistGradientBoostingRegressor


def fit_boosted(
    x: np.ndarray,
    truth: Outcomes,
    train: np.ndarray,
    tuning: np.ndarray,
    predicted: np.ndarray,
    *,
    seed: int,
    grid: Sequence[tuple[float, int]] = GRID,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Fits each setting of the grid on train, and takes the one, and its number of trees, with the least tuning loss.

    Of very many numbers it is the first setting alone, and only the number of trees is chosen.

    Args:
      x: [N, D], NaN where absent.
      truth: of N labels: yes_no, classes or number.
      train, tuning, predicted: rows. Without tuning rows the first setting is taken with the first number of trees.
      seed: draws the columns that splits choose from.
      grid: (learning rate, leaves).

    Returns:
      [len(predicted), J] probabilities or numbers, and what was chosen.
    """
    best: tuple[float, Model | None, int] = (np.inf, None, 0)
    chosen: dict[str, Any] = {}
    tried = {}
    many = len(train) * x.shape[1] >= _MANY
    for rate, leaves in grid if len(tuning) and not many else grid[:1]:
        model = _fresh(truth.kind, rate, leaves, _COLUMNS_OF_MANY if many else _COLUMNS, seed)
        trees, loss = _grow(model, x, truth, train, tuning)
        tried[f"rate {rate:g}, {leaves} leaves"] = loss
        if not chosen or loss < best[0]:
            best = (loss, model, trees)
            chosen = {"learning_rate": rate, "leaves": leaves, "trees": trees, "tuning_loss": loss}
    _, model, trees = best
    stage = next(itertools.islice(_stages(model, truth, x[predicted]), trees - 1, None))
    return stage, chosen | {"tried": tried}


def _fresh(kind: str, rate: float, leaves: int, columns: float, seed: int) -> Model:
    made = HistGradientBoostingRegressor if kind == "number" else HistGradientBoostingClassifier
    return made(
        learning_rate=rate,
        max_leaf_nodes=leaves,
        l2_regularization=_L2,
        max_features=columns,
        early_stopping=False,
        warm_start=True,
        random_state=seed,
    )


def _grow(
    model: Model, x: np.ndarray, truth: Outcomes, train: np.ndarray, tuning: np.ndarray
) -> tuple[int, float | None]:
    """Fits the model; its best number of trees, and that one's loss a tuning label."""
    answer = truth.truth.argmax(axis=1) if truth.kind == "classes" else truth.truth[:, 0]
    trees = _FIRST
    while True:
        model.set_params(max_iter=trees)
        model.fit(x[train], answer[train])
        if not len(tuning):
            return trees, None
        losses = [_loss(stage, truth.take(tuning)) for stage in _stages(model, truth, x[tuning])]
        best = int(np.argmin(losses))
        if best < 0.8 * trees or trees >= _MOST:
            return best + 1, float(losses[best])
        trees *= 2


def _stages(model: Model, truth: Outcomes, x: np.ndarray) -> Iterator[np.ndarray]:
    """[M, J] the predictions after each tree, in the columns of the truth."""
    if truth.kind == "number":
        for stage in model.staged_predict(x):
            yield stage[:, None]
        return
    for stage in model.staged_predict_proba(x):
        if truth.kind == "yes_no":
            yield stage[:, 1:]
        else:
            full = np.zeros((len(x), truth.truth.shape[1]))
            full[:, model.classes_.astype(int)] = stage
            yield full


def _loss(predicted: np.ndarray, truth: Outcomes) -> float:
    """The mean loss of predictions [M, J]."""
    if truth.kind == "number":
        return float(((predicted - truth.truth) ** 2).mean())
    if truth.kind == "yes_no":
        predicted = np.where(truth.truth > 0, predicted, 1.0 - predicted)
    else:
        predicted = (predicted * truth.truth).sum(axis=1)
    return float(-np.log(np.maximum(predicted, 1e-15)).mean())
