"""Intervals by resampling subjects: what one subject's targets share must not count as independent evidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ehrjax.core.errors import InputError

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


@dataclass(frozen=True)
class Resamples:
    """One population's resamples, drawn once: whatever is computed on them is paired, across models and across tasks.

    Attributes:
      subjects: [S] the population, sorted, each once.
      counts: [R, S] int32: how often each subject is drawn.
    """

    subjects: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, subject_ids: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Resamples:
        """The resamples of a population.

        Args:
          subject_ids: [N] in any order, repeats allowed.
          resamples: R.
          seed: the same seed and the same population draw the same subjects.
        """
        subjects = np.unique(subject_ids)
        if not len(subjects):
            return cls(subjects, np.zeros((resamples, 0), np.int32))
        return cls(subjects, resample_counts(len(subjects), resamples=resamples, seed=seed))

    @cached_property
    def with_whole(self) -> Resamples:
        """These behind one more, in which every subject counts once: the whole sample."""
        whole = np.ones((1, len(self.subjects)), np.int32)
        return Resamples(self.subjects, np.concatenate([whole, self.counts]))

    def among(self, subjects: np.ndarray) -> Resamples:
        """The same resamples of the subjects of some rows [N] alone, which is all that these rows' weights need.

        Raises:
          InputError: a subject is not in the population.
        """
        there = np.unique(subjects)
        places = self.places(there)
        return self if len(there) == len(self.subjects) else Resamples(there, self.counts[:, places])

    def places(self, subjects: np.ndarray) -> np.ndarray:
        """[N] int64: the column of `counts` of each row's subject.

        Raises:
          InputError: a subject is not in the population.
        """
        subjects = np.asarray(subjects)
        found = np.searchsorted(self.subjects, subjects)
        known = np.zeros(len(subjects), bool)
        inside = found < len(self.subjects)
        known[inside] = self.subjects[found[inside]] == subjects[inside]
        if not known.all():
            raise InputError(f"subject {subjects[~known][0]} is not in the resampled population; resample all subjects")
        return found

    def chunks(self, subjects: np.ndarray | None = None, size: int = _CHUNK) -> Iterator[tuple[slice, np.ndarray]]:
        """The weights of rows, some resamples at a time, so that memory stays bounded.

        Args:
          subjects: [N] whose row it is; None: one row a subject of the population, in its order.
          size: the most resamples at a time.

        Yields:
          The resamples as a slice, and their weights [chunk, N] float64, laid out so that a row's weights are
          neighbours in memory, which is what the metrics read fastest.
        """
        places = None if subjects is None else self.places(subjects)
        for start in range(0, len(self.counts), size):
            part = slice(start, min(start + size, len(self.counts)))
            columns = np.ascontiguousarray(self.counts[part].T, np.float64)
            yield part, (columns if places is None else columns[places]).T

    def sums(self, rows: np.ndarray, subjects: np.ndarray) -> np.ndarray:
        """Weighted sums over rows: added up by subject once, then one product with the counts.

        Args:
          rows: [N, K] float.
          subjects: [N] whose row it is.

        Returns:
          [R, K] float64.
        """
        places, rows = self.places(subjects), np.asarray(rows, np.float64)
        by_subject = np.zeros((len(self.subjects), rows.shape[1]))
        for k in range(rows.shape[1]):
            by_subject[:, k] = np.bincount(places, rows[:, k], minlength=len(self.subjects))
        return _weighted(self.counts, by_subject)


def _weighted(counts: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """[R, K] float64: counts [R, S] times rows [S, K], some resamples at a time, so that memory stays bounded."""
    found = np.zeros((len(counts), rows.shape[1]))
    for start in range(0, len(counts), _CHUNK):
        found[start : start + _CHUNK] = counts[start : start + _CHUNK].astype(np.float64) @ rows
    return found


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, float64; NaN where nothing is counted below."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def mean_defined(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis, NaN left out; NaN where all are."""
    there = ~np.isnan(values)
    return ratio(np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0))


def row_weights(weights: np.ndarray | None, rows: int) -> np.ndarray:
    """[R, N] float64: the weights given, or for None one weighting in which all rows count once."""
    return np.ones((1, rows)) if weights is None else np.asarray(weights, np.float64)


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
        drawn = resample_counts(len(hits), resamples=resamples, seed=seed)
        samples = _weighted(drawn, hits) / _weighted(drawn, weights)
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
