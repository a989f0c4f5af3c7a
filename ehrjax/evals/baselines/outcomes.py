"""What came true, in the form that the simple models are fitted to: one table of scores for every kind of label."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, log_softmax, softmax

from ehrjax.core.errors import InputError
from ehrjax.data.labelled import Target


@dataclass(frozen=True)
class Outcomes:
    """The truth of N labels, with the losses of scores for it.

    Attributes:
      kind: as Target.kind.
      truth: [N, J] float64. yes_no and codes: 0 or 1; classes: a column a class, 1 for the true one; number: itself;
        time: a column an interval, 1 where the event falls.
      exposure: [N, J] float64: time: the share of each interval that was seen without or up to the event; else 1.
    """

    kind: str
    truth: np.ndarray
    exposure: np.ndarray

    def __len__(self) -> int:
        return len(self.truth)

    def take(self, rows: np.ndarray) -> Outcomes:
        """Those of some rows."""
        return Outcomes(self.kind, self.truth[rows], self.exposure[rows])

    @property
    def varies(self) -> bool:
        """Whether there is anything to tell apart."""
        if self.kind == "time":
            return bool(self.truth.any())
        return len(self) > 0 and bool((self.truth != self.truth[0]).any())

    def marginal(self) -> np.ndarray:
        """[J] the scores that fit best without any feature; finite where a class never or always occurs."""
        if self.kind == "number":
            return self.truth.mean(axis=0)
        # Half a case more of each, so that no score is infinite.
        yes, seen = self.truth.sum(axis=0) + 0.5, self.exposure.sum(axis=0) + 1.0
        if self.kind == "classes":
            return np.log(yes / yes.sum())
        return np.log(yes / np.maximum(seen - yes, 0.5))

    def loss(self, scores: np.ndarray) -> tuple[float, np.ndarray]:
        """The sum of the losses of scores [N, J] and its gradient [N, J]: log loss, for numbers half the square."""
        if self.kind == "number":
            error = scores - self.truth
            return 0.5 * float((error**2).sum()), error
        if self.kind == "classes":
            return -float((self.truth * log_softmax(scores, axis=1)).sum()), softmax(scores, axis=1) - self.truth
        total = self.exposure * np.logaddexp(0.0, scores) - self.truth * scores
        return float(total.sum()), self.exposure * expit(scores) - self.truth

    def predict(self, scores: np.ndarray) -> np.ndarray:
        """[M, J] what scores [M, J] mean: probabilities, numbers, or hazards."""
        if self.kind == "number":
            return scores
        return softmax(scores, axis=1) if self.kind == "classes" else expit(scores)


def outcomes(target: Target, values: np.ndarray, edges_days: tuple[float, ...] = ()) -> Outcomes:
    """The truth of labels.

    Args:
      target: what the labels are.
      values: [N, K] from `labelled.values_of`; a class that is not known is -1.
      edges_days: time: ends of the intervals, rising; the first begins at 0.

    Raises:
      InputError: the edges do not rise, or labels of time have none.
    """
    values = np.asarray(values, np.float64)
    if target.kind == "classes":
        truth = (values == np.arange(len(target.names))).astype(np.float64)
    elif target.kind == "time":
        return Outcomes("time", *_intervals(values, edges_days))
    else:
        truth = values
    return Outcomes(target.kind, truth, np.ones_like(truth))


def _intervals(values: np.ndarray, edges_days: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """[N, J] event in the interval, and the share of the interval that counts, as the objective `hazard` has it."""
    edges = np.array([0.0, *edges_days])
    if len(edges) < 2 or not (np.diff(edges) > 0).all():
        raise InputError(f"edges_days is {tuple(edges_days)}; labels of time need numbers above 0 that rise.")
    days, event = values[:, :1], values[:, 1:] > 0
    starts, ends = edges[:-1], edges[1:]
    # An event at time 0 belongs to the first interval.
    here = event & (days <= ends) & ((days > starts) | (starts == 0.0))
    seen = np.clip((days - starts) / (ends - starts), 0.0, 1.0)
    return here.astype(np.float64), np.where(here, 1.0, seen)


def survival_of(hazards: np.ndarray) -> np.ndarray:
    """[N, J] the probability of no event by the end of each interval, from hazards [N, J]."""
    return np.cumprod(1.0 - hazards, axis=1)


def kaplan_meier(values: np.ndarray, edges_days: tuple[float, ...]) -> np.ndarray:
    """[J] the product-limit estimate of no event up to and including each edge (Kaplan and Meier 1958).

    Args:
      values: [N, 2] days to the event or to censoring, and 1 for an event.
      edges_days: [J] days.
    """
    days, event = np.asarray(values[:, 0], np.float64), values[:, 1] > 0
    times, where = np.unique(days, return_inverse=True)
    leave, events = np.bincount(where, minlength=len(times)), np.bincount(where[event], minlength=len(times))
    at_risk = len(days) - np.concatenate([[0], np.cumsum(leave)[:-1]])
    left = np.concatenate([[1.0], np.cumprod(1.0 - events / at_risk)])
    return left[np.searchsorted(times, np.asarray(edges_days, np.float64), side="right")]
