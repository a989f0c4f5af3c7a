"""Whether probabilities mean what they say, and how to make them do so after the fact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.metrics.bootstrap import ratio, row_weights

EPS = np.finfo(np.float64).eps
BINS = 10
_ROUNDS = 200
# Newton's error is squared at each step: after a step that moves no prediction by more than this, 1e-12 is left.
_STILL = 1e-6


def brier(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """[R]: the mean squared difference of probability and outcome (Brier 1950); NaN without rows.

    truth: [N] bool; probabilities: [N] float; weights: [R, N], None: all rows count once.
    """
    weights = row_weights(weights, len(truth))
    return ratio(weights @ squared_errors(truth, probabilities), weights.sum(axis=1))


def log_loss(truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """[R]: the mean of -log of the probability of what happened; NaN without rows.

    Probabilities are clipped to [eps, 1 - eps], eps = 2.2e-16, as scikit-learn's log_loss does for float64: a certain
    prediction that is wrong costs 36.04, not infinitely much.

    truth: [N] bool; probabilities: [N] float; weights: [R, N], None: all rows count once.
    """
    weights = row_weights(weights, len(truth))
    return ratio(weights @ log_losses(truth, probabilities), weights.sum(axis=1))


def squared_errors(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """[N] float64: each row's part of `brier`."""
    return (np.asarray(probabilities, np.float64) - np.asarray(truth, bool)) ** 2


def log_losses(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """[N] float64: each row's part of `log_loss`."""
    probabilities = np.asarray(probabilities, np.float64)
    return -np.log(np.clip(np.where(truth, probabilities, 1 - probabilities), EPS, 1 - EPS))


def bin_edges(probabilities: np.ndarray, bins: int = BINS, equal_mass: bool = False) -> np.ndarray:
    """[B + 1] increasing: bins of equal width, or of equal numbers of rows as far as equal probabilities allow."""
    even = np.linspace(0, 1, bins + 1)
    if not equal_mass or not len(probabilities):
        return even
    return np.unique(np.concatenate([[0.0], np.quantile(probabilities, even[1:-1]), [1.0]]))


def gaps(truth: np.ndarray, probabilities: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """[N, B] float64: outcome less probability, in the column of the row's bin; bins hold their lower edge."""
    probabilities = np.asarray(probabilities, np.float64)
    found = np.zeros((len(probabilities), len(edges) - 1))
    place = _bins(probabilities, edges)
    found[np.arange(len(probabilities)), place] = np.asarray(truth, bool) - probabilities
    return found


def expected_calibration_error(
    truth: np.ndarray,
    probabilities: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    bins: int = BINS,
    equal_mass: bool = False,
) -> np.ndarray:
    """The mean over bins, by their weight, of |share of yes - mean probability| (Naeini et al. 2015).

    The smaller the sample, the larger it is even for perfect probabilities; so are its resampled values, whose interval
    lies too high rather than about the value.

    Args:
      truth: [N] bool.
      probabilities: [N] float.
      weights: [R, N] of each row; None: one weighting in which all count once.
      bins: how many.
      equal_mass: bins by quantiles of all the probabilities given, whatever their weight, instead of equal width.

    Returns:
      [R] float64; NaN without rows.
    """
    weights = row_weights(weights, len(truth))
    apart = weights @ gaps(truth, probabilities, bin_edges(probabilities, bins, equal_mass))
    return ratio(np.abs(apart).sum(axis=1), weights.sum(axis=1))


@dataclass(frozen=True)
class Reliability:
    """A calibration curve over the B bins that hold rows.

    Attributes:
      count: [B] rows.
      predicted: [B] mean probabilities.
      observed: [B] shares of yes.
    """

    count: np.ndarray
    predicted: np.ndarray
    observed: np.ndarray


def reliability(
    truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS, *, equal_mass: bool = True
) -> Reliability:
    """The calibration curve of N rows: truth [N] bool, probabilities [N]; see `bin_edges` for the bins.

    Intervals of the shares come from resampled subjects and `bin_columns`: rows of one subject are not independent.
    """
    truth, probabilities = np.asarray(truth, bool), np.asarray(probabilities, np.float64)
    edges = bin_edges(probabilities, bins, equal_mass)
    place, size = _bins(probabilities, edges), len(edges) - 1
    count = np.bincount(place, minlength=size)
    kept = count > 0
    n = count[kept]
    predicted = np.bincount(place, probabilities, minlength=size)[kept] / n
    observed = np.bincount(place, truth, minlength=size)[kept] / n
    return Reliability(n, predicted, observed)


def bin_columns(
    truth: np.ndarray, probabilities: np.ndarray, bins: int = BINS, *, equal_mass: bool = True
) -> np.ndarray:
    """[N, 2 B] float64, what is summed over rows for the curve's B bins: 1, and then the truth, in the row's bin.

    The bins are those of `reliability`, empty ones left out.
    """
    truth, probabilities = np.asarray(truth, bool), np.asarray(probabilities, np.float64)
    edges = bin_edges(probabilities, bins, equal_mass)
    place = np.unique(_bins(probabilities, edges), return_inverse=True)[1]
    size = int(place.max(initial=-1)) + 1
    found = np.zeros((len(truth), 2 * size))
    rows = np.arange(len(truth))
    found[rows, place], found[rows, size + place] = 1.0, truth
    return found


def _bins(probabilities: np.ndarray, edges: np.ndarray) -> np.ndarray:
    return np.clip(np.searchsorted(edges, probabilities, side="right") - 1, 0, len(edges) - 2)


@dataclass(frozen=True)
class Line:
    """Logistic regressions of the truth on the logit of the probability (Cox 1958; Van Calster et al. 2019).

    Attributes:
      slope: [R], 1 is ideal, below it the probabilities are too extreme.
      joint_intercept: [R], fitted together with the slope.
      intercept: [R] fitted with the slope held at 1, calibration in the large: 0 is ideal, below it the probabilities
        are too high.
    """

    slope: np.ndarray
    joint_intercept: np.ndarray
    intercept: np.ndarray


def line(
    truth: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None, *, start: Line | None = None
) -> Line:
    """Calibration slope and intercept, by Newton's method for all weightings at once, to 1e-10.

    Args:
      truth: [N] bool.
      probabilities: [N] float, clipped to [eps, 1 - eps], eps = 2.2e-16, before the logit.
      weights: [R, N] of each row; None: one weighting in which all count once.
      start: the solution for all rows at weight 1, to begin at; None: found first.

    Returns:
      float64; NaN where the likelihood has no finite maximum: with one class nothing; with equal probabilities or with
      classes that the probabilities separate, completely or but for ties, no slope (Albert and Anderson 1984).
    """
    truth = np.asarray(truth, bool)
    p = np.clip(np.asarray(probabilities, np.float64), EPS, 1 - EPS)
    order = np.argsort(p, kind="stable")
    truth, logits = truth[order], np.log(p[order]) - np.log1p(-p[order])
    if weights is None:
        return _fit(truth, logits, np.ones((len(truth), 1)), None)
    weights = np.ascontiguousarray(np.asarray(weights, np.float64).T[order])
    return _fit(truth, logits, weights, start or _fit(truth, logits, np.ones((len(truth), 1)), None))


def _fit(truth: np.ndarray, logits: np.ndarray, weights: np.ndarray, start: Line | None) -> Line:
    """`line` of rows sorted by logit; weights [N, R]."""
    size = weights.shape[1]
    if truth.all() or not truth.any():
        return Line(*np.full((3, size), np.nan))
    both, overlap = _identified(truth, logits, weights)
    begin = 0.0 if start is None else start.intercept[0]
    _, intercept = _newton(truth, np.zeros_like(logits), logits, weights, both, np.zeros(size), np.full(size, begin))
    if start is None:
        begin = 0.0, 1.0
    elif np.isnan(start.slope[0]):
        return Line(np.full(size, np.nan), np.full(size, np.nan), intercept)
    else:
        begin = start.joint_intercept[0], start.slope[0]
    slope, joint = _newton(truth, logits, None, weights, overlap, np.full(size, begin[1]), np.full(size, begin[0]))
    return Line(slope, joint, intercept)


def _identified(truth: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[R] bool each: both classes have weight; and neither has all its logits on one side of the other's."""
    ends = []
    for kind in (truth, ~truth):
        there, of = weights[kind] > 0, logits[kind]
        some = there.any(axis=0)
        ends.append((some, of[there.argmax(axis=0)], of[len(of) - 1 - there[::-1].argmax(axis=0)]))
    (yes, yes_low, yes_high), (no, no_low, no_high) = ends
    return yes & no, yes & no & (no_high > yes_low) & (yes_high > no_low)


def _newton(
    truth: np.ndarray,
    logits: np.ndarray,
    offset: np.ndarray | None,
    weights: np.ndarray,
    live: np.ndarray,
    slope: np.ndarray,
    intercept: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts [R] of logistic regressions, from where they begin; NaN where not live.

    With an offset [N] only the intercept is fitted, and `logits` play no part.

    Along a step that moves a prediction's logit by d, its curvature grows by a factor of at most exp(d), and not at all
    if the logit moves away from 0. So a step is shortened to log(1 + d) / d of it, where d, the largest of those that
    move towards 0, is above 1; then the likelihood always grows (Sun and Tran-Dinh 2019).
    """
    # About the mean and in units of the spread, which keeps the equations well conditioned.
    middle, scale = (0.0, 1.0) if offset is not None else (logits.mean(), logits.std() or 1.0)
    x = (logits - middle) / scale
    intercept, slope = intercept + slope * middle, slope * scale
    powers = np.stack([np.ones(len(x)), x, x * x])
    if offset is not None:
        powers = powers[:1]
    sign = np.where(truth, 1.0, -1.0)
    wrong, scratch = np.empty_like(weights), np.empty_like(weights)
    moved = np.full(len(live), np.inf)
    for _ in range(_ROUNDS):
        # The probability of what did not happen keeps its digits where it is tiny, as a difference from 1 would not. In
        # place, since the loop is bound by memory.
        if offset is None:
            np.multiply(x[:, None], slope, out=wrong)
            wrong += intercept
        else:
            np.add(offset[:, None], intercept, out=wrong)
        wrong *= sign[:, None]
        with np.errstate(over="ignore"):
            np.exp(wrong, out=wrong)
        wrong += 1.0
        np.reciprocal(wrong, out=wrong)
        np.multiply(weights, wrong, out=scratch)
        gradient = (powers[:2] * sign) @ scratch
        np.subtract(1.0, wrong, out=wrong)
        scratch *= wrong
        curvature = powers @ scratch
        # What is not identified may divide by 0 here, and is left out below.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if offset is None:
                determinant = curvature[0] * curvature[2] - curvature[1] ** 2
                up = (curvature[2] * gradient[0] - curvature[1] * gradient[1]) / determinant
                turn = (curvature[0] * gradient[1] - curvature[1] * gradient[0]) / determinant
            else:
                up, turn = gradient[0] / curvature[0], np.zeros(len(live))
            step = np.maximum(np.abs(up + turn * x[0]), np.abs(up + turn * x[-1]))
        live = live & np.isfinite(step)
        share, far = np.ones(len(live)), live & (step > 1)
        if far.any():
            at = intercept[far] + (x[:, None] * slope[far] if offset is None else offset[:, None])
            change = up[far] + x[:, None] * turn[far]
            nearer = np.where((at * change < 0) & (weights[:, far] > 0), np.abs(change), 0.0).max(axis=0)
            share[far] = np.where(nearer > 1, np.log1p(nearer) / np.maximum(nearer, 1.0), 1.0)
        moved = np.where(live, step, 0.0)
        intercept, slope = intercept + np.where(live, share * up, 0.0), slope + np.where(live, share * turn, 0.0)
        if moved.max(initial=0.0) < _STILL:
            break
    live = live & (moved < _STILL)
    slope, intercept = slope / scale, intercept - slope / scale * middle
    return np.where(live, slope, np.nan), np.where(live, intercept, np.nan)
