"""Linear models with an L2 penalty for every kind of label: logistic, softmax, ridge, discrete-time hazards.

Minimised is C * sum of losses + 1/2 |weights|^2, as scikit-learn writes it; the offsets are not penalised. One solver
(L-BFGS) serves all kinds, so that many codes, or the intervals of a hazard, cost one pass over the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, sparse

from ehrjax.evals.baselines.outcomes import Outcomes

GRID = tuple(10.0 ** (half / 2) for half in range(-10, 3))
# Where no tuning labels are left to choose by.
UNCHOSEN = 0.1
_ITERATIONS = 300
# Values of C in a row that made tuning worse before the rest of the grid, which costs most, is left.
_PATIENCE = 2

Matrix = np.ndarray | sparse.csr_matrix


@dataclass(frozen=True)
class Linear:
    """A fitted model.

    Attributes:
      outcomes: of train; says what the scores mean.
      weights: [D, J]; [D, 1] for the hazards, whose intervals share them.
      offsets: [J].
      centre, scale: of the target, for numbers.
    """

    outcomes: Outcomes
    weights: np.ndarray
    offsets: np.ndarray
    centre: float = 0.0
    scale: float = 1.0

    def predict(self, x: Matrix) -> np.ndarray:
        """[M, J] probabilities, numbers or hazards for features [M, D]."""
        return self.outcomes.predict(np.asarray(x @ self.weights) + self.offsets) * self.scale + self.centre


def fit_path(
    x_train: Matrix,
    train: Outcomes,
    x_tuning: Matrix,
    tuning: Outcomes,
    *,
    grid: Sequence[float] = GRID,
    tolerance: float = 1e-9,
) -> tuple[Linear, dict[str, Any]]:
    """Fits for rising C, each from the solution before, and keeps the one with the least loss on tuning.

    Args:
      x_train: [N, D], scaled.
      train: of N labels.
      x_tuning: [M, D]; M may be 0.
      tuning: of M labels.
      grid: values of C, rising.
      tolerance: a fit ends when a step lowers what is minimised by less than this share.

    Returns:
      The model, and what was chosen: C, tuning_loss (a label; None without tuning labels), tried (C -> loss).
    """
    centre, scale = (
        (float(train.truth.mean()), float(train.truth.std()) or 1.0) if train.kind == "number" else (0.0, 1.0)
    )
    train, tuning = (
        Outcomes(part.kind, (part.truth - centre) / scale, part.exposure) if part.kind == "number" else part
        for part in (train, tuning)
    )
    shape = (x_train.shape[1], 1 if train.kind == "time" else train.truth.shape[1])
    state = np.concatenate([np.zeros(shape[0] * shape[1]), train.marginal()])
    if not len(tuning):
        state = _solve(x_train, train, UNCHOSEN, state, shape, tolerance)
        return _linear(train, state, shape, centre, scale), {"C": UNCHOSEN, "tuning_loss": None, "tried": {}}
    best, tried, worse = (np.inf, state, grid[0]), {}, 0
    for c in grid:
        state = _solve(x_train, train, c, state, shape, tolerance)
        weights, offsets = _parts(state, shape)
        loss = tuning.loss(np.asarray(x_tuning @ weights) + offsets)[0] / len(tuning)
        tried[f"{c:g}"] = loss
        worse = 0 if loss < best[0] else worse + 1
        if loss < best[0]:
            best = (loss, state, c)
        if worse >= _PATIENCE:
            break
    chosen = {"C": best[2], "tuning_loss": best[0], "tried": tried}
    return _linear(train, best[1], shape, centre, scale), chosen


def _solve(
    x: Matrix, train: Outcomes, c: float, start: np.ndarray, shape: tuple[int, int], tolerance: float
) -> np.ndarray:
    """The weights (of a shape) and offsets [J], one after another."""
    # Divided by C and the labels, so that one tolerance fits all.
    penalty, size = 1.0 / (c * len(train)), len(train)
    transposed = x.T

    def objective(state: np.ndarray) -> tuple[float, np.ndarray]:
        weights, offsets = _parts(state, shape)
        loss, gradient = train.loss(np.asarray(x @ weights) + offsets)
        shared = gradient.sum(axis=1, keepdims=True) if train.kind == "time" else gradient
        along = np.asarray(transposed @ shared) / size + penalty * weights
        value = loss / size + 0.5 * penalty * float((weights**2).sum())
        return value, np.concatenate([along.ravel(), gradient.sum(axis=0) / size])

    options = {"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS, "gtol": 1e-6, "ftol": tolerance, "maxcor": 20}
    return optimize.minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x


def _parts(state: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    size = shape[0] * shape[1]
    return state[:size].reshape(shape), state[size:]


def _linear(train: Outcomes, state: np.ndarray, shape: tuple[int, int], centre: float, scale: float) -> Linear:
    weights, offsets = _parts(state, shape)
    return Linear(train.take(np.zeros(0, int)), weights, offsets, centre, scale)
