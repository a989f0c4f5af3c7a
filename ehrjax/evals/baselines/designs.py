"""Features as the models take them; whatever is fitted (means, spreads, knots) is fitted on the train rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from ehrjax.evals.baselines.features import Features
from ehrjax.evals.baselines.subject_groups import FEMALE, MALE

SCALES = ("max_abs", "sd")
_KNOTS = (0.1, 0.3, 0.5, 0.7, 0.9)
# Values beyond these quantiles of train are cut: a mistyped unit must not decide the spread.
_CUT = (0.005, 0.995)
# Trees take no column that fewer than one in so many rows of train have.
_RARE = 1000


@dataclass(frozen=True)
class Dense:
    """Columns standardised on train: cut to the bulk, centred, divided by their standard deviation, absent ones 0.

    Attributes:
      low, high, mean, spread: [D]; spread is infinite for a column that does not vary.
      marks: columns whose absence is a column of its own, of those absent together the first.
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    spread: np.ndarray
    marks: np.ndarray

    def transform(self, values: np.ndarray) -> np.ndarray:
        """[M, D + marks] float64 of raw values [M, D], NaN where absent."""
        scaled = (np.clip(values, self.low, self.high) - self.mean) / self.spread
        absent = np.isnan(values[:, self.marks])
        return np.concatenate([np.nan_to_num(scaled, nan=0.0), ~absent], axis=1, dtype=np.float64)


def fit_dense(values: np.ndarray, *, cut: bool = True) -> Dense:
    """Fits on the train rows [N, D], NaN where absent; without `cut` extremes are left as they are."""
    values = np.asarray(values, np.float64)
    absent = np.isnan(values)
    count = (~absent).sum(axis=0)
    low, high = np.full(values.shape[1], -np.inf), np.full(values.shape[1], np.inf)
    if cut and len(values):
        # Sorted, NaN stand last.
        ordered = np.sort(values, axis=0)
        places = [np.rint(share * np.maximum(count - 1, 0)).astype(int) for share in _CUT]
        ends = [np.take_along_axis(ordered, place[None], axis=0)[0] for place in places]
        low, high = np.where(count > 0, ends[0], low), np.where(count > 0, ends[1], high)
    kept = np.nan_to_num(np.clip(values, low, high))
    mean = kept.sum(axis=0) / np.maximum(count, 1)
    variance = (np.where(absent, 0.0, kept - mean) ** 2).sum(axis=0) / np.maximum(count, 1)
    # What rounding leaves of a constant is no spread.
    varies = variance > 1e-12 * np.maximum(mean**2, 1e-12)
    spread = np.where(varies, np.sqrt(variance), np.inf)
    partly = np.flatnonzero((count > 0) & (count < len(values)))
    _, first = np.unique(np.packbits(absent[:, partly], axis=0), axis=1, return_index=True)
    return Dense(low, high, mean, spread, np.sort(partly[first]) if len(partly) else partly)


def sparse_scale(counts: sparse.csr_matrix, how: str) -> np.ndarray:
    """[F] what to multiply columns of train counts [N, F] with: 1 / their largest size or 1 / their spread, or 0."""
    if how == "max_abs":
        size = np.asarray(abs(counts).max(axis=0).todense(), np.float64).ravel()
    else:
        rows = max(counts.shape[0], 1)
        mean = np.asarray(counts.sum(axis=0), np.float64).ravel() / rows
        squares = np.asarray(counts.multiply(counts).sum(axis=0), np.float64).ravel() / rows
        size = np.sqrt(np.maximum(squares - mean**2, 0.0))
    return np.divide(1.0, size, out=np.zeros_like(size), where=size > 1e-9)


def scaled(counts: sparse.csr_matrix, scale: np.ndarray) -> sparse.csr_matrix:
    """Counts [N, F] with each column multiplied, in float64."""
    matrix = sparse.csr_matrix(counts, dtype=np.float64)
    return sparse.csr_matrix((matrix.data * scale[matrix.indices], matrix.indices, matrix.indptr), matrix.shape)


def standardised(matrix: np.ndarray | sparse.csr_matrix, train: np.ndarray) -> np.ndarray | sparse.csr_matrix:
    """[N, D'] a matrix standardised by its rows `train`: dense ones centred (and marked where NaN), sparse ones not."""
    if sparse.issparse(matrix):
        matrix = sparse.csr_matrix(matrix)
        return scaled(matrix, sparse_scale(matrix[train], "sd"))
    return fit_dense(matrix[train], cut=False).transform(np.asarray(matrix, np.float64))


def age_and_sex(features: Features, train: np.ndarray) -> np.ndarray:
    """[N, 9] float64: age, its square, hinges at quantiles of train, whether it is known, and sex."""
    ages = features.ages
    known = ages[train][~np.isnan(ages[train])]
    knots = np.quantile(known, _KNOTS) if len(known) else np.zeros(len(_KNOTS))
    columns = np.stack([ages, ages**2, *(np.maximum(ages - knot, 0.0) for knot in knots)], axis=1)
    curve = fit_dense(columns[train], cut=False).transform(columns)
    return np.concatenate(
        [curve, (features.sexes == FEMALE)[:, None], (features.sexes == MALE)[:, None]], axis=1, dtype=np.float64
    )


def linear_design(features: Features, train: np.ndarray, how: str) -> sparse.csr_matrix:
    """[N, D] float64: log(1 + counts) scaled, values standardised with marks of presence, age and sex.

    Args:
      features: of all rows.
      train: rows that means and spreads are fitted on.
      how: of SCALES; how counts are scaled.
    """
    counts = features.counts.log1p()
    dense = fit_dense(features.values[train]).transform(features.values)
    parts = [scaled(counts, sparse_scale(counts[train], how)), sparse.csr_matrix(dense)]
    return sparse.hstack([*parts, sparse.csr_matrix(age_and_sex(features, train))], format="csr")


def tree_design(features: Features, train: np.ndarray, truth: np.ndarray, most: int) -> np.ndarray:
    """[N, D] float32, NaN where absent: age, sex, and the `most` counts and values that go with the truth most.

    Columns that train has next to nothing of are left out.

    Args:
      features: of all rows.
      train: rows that usefulness is measured on.
      truth: [len(train), J] of the train rows.
      most: columns beside age and sex.
    """
    counts = features.counts.log1p()
    values = fit_dense(features.values[train]).transform(features.values[train])[:, : features.values.shape[1]]
    useful = np.concatenate([_correlation(counts[train], truth), _correlation(values, truth)])
    best = np.sort(np.argsort(-useful, kind="stable")[:most])
    width = features.counts.shape[1]
    parts = [
        features.ages[:, None],
        np.where(features.sexes == FEMALE, 1.0, np.where(features.sexes == MALE, 0.0, np.nan))[:, None],
        features.counts[:, best[best < width]].toarray(),
        features.values[:, best[best >= width] - width],
    ]
    x = np.concatenate(parts, axis=1, dtype=np.float32)
    # scikit-learn fails on a column that the rows it draws for its bins have nothing of, as an age that nobody has.
    present = (~np.isnan(x[train])).sum(axis=0)
    return x[:, present >= max(1, len(train) // _RARE)]


def telling(x: np.ndarray | sparse.csr_matrix, train: np.ndarray, truth: np.ndarray, most: int) -> np.ndarray:
    """[N, at most `most`] float64: the columns of a design that go with the truth [len(train), J] of train most."""
    useful = _correlation(x[train], truth)
    best = np.sort(np.argsort(-useful, kind="stable")[:most])
    chosen = x[:, best]
    return chosen.toarray() if sparse.issparse(chosen) else chosen


def _correlation(x: np.ndarray | sparse.csr_matrix, truth: np.ndarray) -> np.ndarray:
    """[D] the largest absolute correlation of each column of x [N, D] with a column of the truth [N, J]."""
    rows = max(len(truth), 1)
    centred = truth - truth.mean(axis=0)
    square = x.multiply(x) if sparse.issparse(x) else x * x
    mean = np.asarray(x.sum(axis=0), np.float64).ravel() / rows
    variance = np.asarray(square.sum(axis=0), np.float64).ravel() / rows - mean**2
    covariance = np.asarray(x.T @ centred, np.float64) / rows
    bottom = np.sqrt(np.maximum(variance, 0.0))[:, None] * truth.std(axis=0)
    return np.abs(np.divide(covariance, bottom, out=np.zeros_like(covariance), where=bottom > 1e-9)).max(axis=1)
