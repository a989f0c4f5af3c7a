"""How well risks rank times to an event under censoring; definitions are scikit-survival's, ties included.

Weights by the inverse probability of censoring come from train and stay as they are in every resample.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ehrjax.core.errors import InputError
from ehrjax.metrics.bootstrap import ratio, row_weights
from ehrjax.metrics.discrimination import Steps

# Scores no further apart than this are tied.
TIED = 1e-8
# Risks that span less, such as rates a day, are stretched to a span of 1: else all of them would be tied.
NARROW = 0.01


@dataclass(frozen=True)
class Censoring:
    """Kaplan and Meier's estimate of the probability of not being censored by a time (1958).

    Attributes:
      times: [U] increasing, those of train.
      kept: [U] the probability of being censored later than each.
    """

    times: np.ndarray
    kept: np.ndarray

    @classmethod
    def of(cls, times: np.ndarray, events: np.ndarray) -> Censoring:
        """Estimated on train: times [M] to event or censoring, events [M] bool.

        Raises:
          InputError: there are no rows.
        """
        if not len(times):
            raise InputError("censoring cannot be estimated without rows of train")
        unique, place = np.unique(np.asarray(times, np.float64), return_inverse=True)
        everybody = np.bincount(place, minlength=len(unique))
        censored = np.bincount(place, ~np.asarray(events, bool), minlength=len(unique))
        # Who has the event at a time is no longer at risk of being censored at it.
        at_risk = len(place) - np.cumsum(everybody) + censored
        lost = np.divide(censored, at_risk, out=np.zeros(len(unique)), where=censored > 0)
        return cls(unique, np.cumprod(1 - lost))

    def probability(self, times: np.ndarray) -> np.ndarray:
        """Of being censored later than the times, the same shape.

        Raises:
          InputError: a time is beyond train's, where the estimate has not come down to 0: nothing is known there.
        """
        times = np.asarray(times, np.float64)
        if self.kept[-1] > 0 and (times > self.times[-1]).any():
            raise InputError(f"train's follow-up ends at {self.times[-1]:g} days, before a time that is asked for")
        return np.concatenate([[1.0], self.kept])[np.searchsorted(self.times, times, side="right")]

    def inverse(self, times: np.ndarray) -> np.ndarray:
        """1 / probability at the times of events.

        Raises:
          InputError: the probability of an event's time is 0 or unknown.
        """
        probability = self.probability(times)
        if (probability == 0).any():
            raise InputError("by the time of an event all of train were censored; choose an earlier horizon")
        return 1 / probability


class Pairs:
    """The comparable pairs of N rows, sorted once, to be weighted many times.

    An event is comparable with the rows whose time is later, and with those censored at its own time. Which of these
    have a smaller risk is counted over blocks of 1, 2, 4 ... neighbours in time, each sorted by risk: the rows after an
    event are at most one block of each size. So R weightings cost R N log N, where pairs would cost R N N.

    Attributes:
      events: [E] the rows with an event.
    """

    def __init__(self, times: np.ndarray, events: np.ndarray, risk: np.ndarray) -> None:
        """times [N] float, events [N] bool, risk [N] float without NaN, larger where the event is sooner."""
        times, risk = np.asarray(times, np.float64), _stretched(risk)
        happened = np.asarray(events, bool)
        self._order = np.lexsort((~happened, times))
        times, happened, risk = times[self._order], happened[self._order], risk[self._order]
        own = np.flatnonzero(happened)
        self.events = self._order[own]
        # Events come before what is censored at the same time, so the comparable rows are all from here on.
        first = np.searchsorted(times, times[own])
        self._first = first + np.cumsum(happened)[np.searchsorted(times, times[own], side="right") - 1]
        self._first -= np.concatenate([[0], np.cumsum(happened)])[first]
        by_risk = np.argsort(risk, kind="stable")
        rank = np.empty(len(risk), np.int64)
        rank[by_risk] = np.arange(len(risk))
        less, upto = _tied_range(risk[by_risk], risk[own])
        self._levels = []
        at, size = self._first.copy(), 1
        while (at < len(risk)).any():
            asks = np.flatnonzero((at & size > 0) & (at < len(risk)))
            key = (np.arange(len(risk)) // size) * len(risk) + rank
            sorted_by = np.argsort(key)
            block = at[asks] // size * len(risk)
            low = np.searchsorted(key[sorted_by], block + less[asks])
            high = np.searchsorted(key[sorted_by], block + upto[asks])
            self._levels.append((sorted_by, asks, at[asks], low, high))
            at[asks] += size
            size *= 2

    def concordance(self, weights: np.ndarray | None = None, factors: np.ndarray | None = None) -> np.ndarray:
        """Concordant over comparable pairs, tied risks counting half.

        Args:
          weights: [R, N] of each row, a pair having the product of its two; None: all 1, R = 1.
          factors: [F, N] what the pairs of an event at each row are multiplied by; None: 1, F = 1.

        Returns:
          [F, R] float64; NaN where nothing is comparable.
        """
        weights = row_weights(weights, len(self._order)).T[self._order]
        factors = np.ones((1, len(weights))) if factors is None else np.asarray(factors, np.float64)
        won = np.zeros((len(self.events), weights.shape[1]))
        summed = np.zeros((len(weights) + 1, weights.shape[1]))
        for sorted_by, asks, start, low, high in self._levels:
            np.cumsum(weights[sorted_by], axis=0, out=summed[1:])
            won[asks] += (summed[low] + summed[high]) / 2 - summed[start]
        np.cumsum(weights, axis=0, out=summed[1:])
        comparable = summed[-1] - summed[self._first]
        own = weights[np.argsort(self._order)[self.events]]
        factors = factors[:, self.events]
        return ratio(factors @ (own * won), factors @ (own * comparable))


def _stretched(risk: np.ndarray) -> np.ndarray:
    """[N] float64: risks whose scale, which means nothing, leaves those apart that differ."""
    risk = np.asarray(risk, np.float64)
    span = np.ptp(risk) if len(risk) else 0.0
    return risk / span if 0 < span < NARROW else risk


def _tied_range(risks: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[E] each: how many of the sorted risks [N] are smaller than one's own, and how many smaller or tied."""
    found = []
    for smaller in (lambda other: own - other > TIED, lambda other: other - own <= TIED):
        # By bisection on the very difference that decides a tie: own - TIED would be rounded differently.
        low, high = np.zeros(len(own), np.int64), np.full(len(own), len(risks))
        while (low < high).any():
            middle = (low + high) // 2
            yes = smaller(risks[np.minimum(middle, len(risks) - 1)]) & (low < high)
            low, high = np.where(yes, middle + 1, low), np.where(yes, high, middle)
        found.append(low)
    return found[0], found[1]


def harrell_c(times: np.ndarray, events: np.ndarray, risk: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The share of comparable pairs in which the earlier event has the larger risk (Harrell et al. 1996).

    Args:
      times: [N] float, to the event or censoring.
      events: [N] bool.
      risk: [N] float, larger where the event is sooner.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R] float64; NaN where nothing is comparable.
    """
    return Pairs(times, events, risk).concordance(weights)[0]


def uno_factors(times: np.ndarray, events: np.ndarray, censoring: Censoring, tau: float | None = None) -> np.ndarray:
    """[N]: the squared inverse probability of censoring of events before tau, 0 of other rows; see `uno_c`.

    Raises:
      InputError: the censoring of such an event is unknown.
    """
    counted = np.asarray(events, bool) & (np.asarray(times) < (np.inf if tau is None else tau))
    factors = np.zeros(len(counted))
    factors[counted] = censoring.inverse(np.asarray(times)[counted]) ** 2
    return factors


def uno_c(
    times: np.ndarray,
    events: np.ndarray,
    risk: np.ndarray,
    censoring: Censoring,
    tau: float | None = None,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """Concordance free of the censoring's distribution, for events before tau (Uno et al. 2011).

    Args:
      times, events, risk, weights: as `harrell_c` has them.
      censoring: of train.
      tau: events at or after it do not count; None: all do.

    Returns:
      [R] float64; NaN where nothing is comparable.

    Raises:
      InputError: the censoring of an event that counts is unknown.
    """
    return Pairs(times, events, risk).concordance(weights, uno_factors(times, events, censoring, tau)[None])[0]


def dynamic_steps(
    times: np.ndarray,
    events: np.ndarray,
    risk: np.ndarray,
    censoring: Censoring,
    horizon: float,
    places: np.ndarray | None = None,
    columns: int | None = None,
) -> Steps:
    """The steps whose AUROC is the cumulative/dynamic AUC at a horizon; places and columns as Steps.of has them.

    Risks are tied where each is within 1e-8 of the next among all N rows, whatever their weights (`_stretched`).
    """
    times, risk = np.asarray(times, np.float64), _stretched(risk)
    case = (times <= horizon) & np.asarray(events, bool)
    used = case | (times > horizon)
    order = np.argsort(risk, kind="stable")
    tie = np.zeros(len(risk))
    tie[order] = np.concatenate([[0], np.cumsum(np.abs(np.diff(risk[order])) > TIED)])[: len(risk)]
    factors = np.ones(len(risk))
    factors[case] = censoring.inverse(times[case])
    places = np.arange(len(risk)) if places is None else places
    columns = len(risk) if columns is None else columns
    return Steps.of(case[used], tie[used], places[used], columns, factors[used])


def dynamic_aucs(
    times: np.ndarray,
    events: np.ndarray,
    risk: np.ndarray,
    censoring: Censoring,
    horizons: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The AUC of those with the event by a horizon against those still without (Uno et al. 2007; Hung and Chiang 2010).

    Args:
      times, events, weights: as `harrell_c` has them.
      risk: [N], or [N, H] by each horizon.
      censoring: of train.
      horizons: [H] days.

    Returns:
      [R, H] float64; NaN where there are no cases or no controls.

    Raises:
      InputError: the censoring of an event by a horizon is unknown.
    """
    weights = row_weights(weights, len(times))
    risks = np.broadcast_to(risk if np.ndim(risk) == 2 else np.asarray(risk)[:, None], (len(times), len(horizons))).T
    steps = [dynamic_steps(times, events, own, censoring, horizon) for own, horizon in zip(risks, horizons)]
    return np.stack([step.tally(weights).auroc() for step in steps], axis=1)


def mean_dynamic_auc(
    aucs: np.ndarray, times: np.ndarray, events: np.ndarray, horizons: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """The mean of `dynamic_aucs`, each weighing as much as survival falls up to it (Lambert and Chevret 2016).

    Args:
      aucs: [R, H].
      times, events: [N] as for the AUCs; survival is estimated on them, weights and all.
      horizons: [H] increasing.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R] float64; NaN where an AUC is.
    """
    return mean_of(aucs, kaplan_meier(times, events, horizons, weights))


def mean_of(aucs: np.ndarray, left: np.ndarray) -> np.ndarray:
    """`mean_dynamic_auc` [R] for AUCs [R, H] and the survival [R, H] at their horizons."""
    falls = -np.diff(left, axis=1, prepend=1.0)
    return ratio((aucs * falls).sum(axis=1), 1 - left[:, -1])


def kaplan_meier(
    times: np.ndarray, events: np.ndarray, at: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """The probability of no event by each time (Kaplan and Meier 1958).

    Args:
      times: [N] float, to the event or censoring.
      events: [N] bool.
      at: [H] times.
      weights: [R, N] of each row; None: one weighting in which all count once.

    Returns:
      [R, H] float64.
    """
    times, events = np.asarray(times, np.float64), np.asarray(events, bool)
    order = np.argsort(times, kind="stable")
    weights, times, events = row_weights(weights, len(times)).T[order], times[order], events[order]
    moments = np.unique(times[events & (times <= np.max(at))])
    before = np.zeros((len(times) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=before[1:])
    at_risk = before[-1] - before[np.searchsorted(times, moments)]
    np.cumsum(weights * events[:, None], axis=0, out=before[1:])
    died = before[np.searchsorted(times, moments, side="right")] - before[np.searchsorted(times, moments)]
    stays = 1 - np.divide(died, at_risk, out=np.zeros_like(died), where=at_risk > 0)
    left = np.concatenate([np.ones((1, weights.shape[1])), np.cumprod(stays, axis=0)])
    return left[np.searchsorted(moments, at, side="right")].T


def brier_rows(
    times: np.ndarray, events: np.ndarray, survival: np.ndarray, censoring: Censoring, at: np.ndarray
) -> np.ndarray:
    """[N, H]: each row's part of `brier_scores`.

    Raises:
      InputError: the censoring of an event by a time, or of a time, is unknown.
    """
    times, at = np.asarray(times, np.float64)[:, None], np.asarray(at, np.float64)
    survival = np.asarray(survival, np.float64)
    case = (times <= at) & np.asarray(events, bool)[:, None]
    own = np.ones(times.shape)
    some = case.any(axis=1)
    own[some] = _inverse_or_zero(censoring.probability(times[some]))
    later = _inverse_or_zero(censoring.probability(at))
    return survival**2 * case * own + (1 - survival) ** 2 * (times > at) * later


def _inverse_or_zero(probability: np.ndarray) -> np.ndarray:
    return np.divide(1.0, probability, out=np.zeros_like(probability), where=probability > 0)


def brier_scores(
    times: np.ndarray,
    events: np.ndarray,
    survival: np.ndarray,
    censoring: Censoring,
    at: np.ndarray,
    weights: np.ndarray | None = None,
) -> np.ndarray:
    """The Brier score of probabilities of no event by each time, for censored data (Graf et al. 1999).

    Args:
      times, events, weights: as `harrell_c` has them.
      survival: [N, H] probabilities of no event by each time.
      censoring: of train; rows whose probability of being uncensored is 0 count 0.
      at: [H] times.

    Returns:
      [R, H] float64; NaN without rows.

    Raises:
      InputError: the censoring of an event by a time, or of a time, is unknown.
    """
    weights = row_weights(weights, len(times))
    return ratio(weights @ brier_rows(times, events, survival, censoring, at), weights.sum(axis=1, keepdims=True))


def integrated_brier(scores: np.ndarray, at: np.ndarray) -> np.ndarray:
    """[R]: the mean over time of `brier_scores` [R, H] at increasing times [H], two or more, by trapezes."""
    return np.trapezoid(scores, at, axis=1) / (at[-1] - at[0])
