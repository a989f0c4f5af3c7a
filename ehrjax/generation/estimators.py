r"""Risks from sampled futures, with their Monte-Carlo errors.

Of an event E within a horizon, for N trajectories sampled independently from the model after one prompt:

`count`: the share of trajectories in which E happens within the horizon. Unbiased; its variance is r (1 - r) / N.

`expected`: the mean over trajectories of

    s = sum over steps t, until E has happened, the horizon has passed or the trajectory has ended, of
        P(the token drawn at t is of E and falls within the horizon | what was drawn before t)

Each term is the conditional expectation of "E happens first at t" given what was drawn before t, so by the tower rule
the mean of s is the same risk: unbiased for the same model, the same settings of drawing (the probabilities are those
that are drawn from, after temperature, top-k and top-p) and the same trajectories. Where E is rare a trajectory without
it tells how near it came, and far fewer are needed; where E is nearly certain s, which may be above 1, varies more than
the count. (The idea is that of SCOPE, arXiv 2602.03730; the formula above is what is computed.) While it is still open
whether a trajectory begins anew because an event falls before the prediction time, the event itself is counted, since
the term given "not anew" is not known then.

`combined`: the mean of h - b (h - s), where h is 1 if E happened and 0 otherwise. h - s has mean 0, so for any fixed b
this too is unbiased; b is the regression slope of h on h - s within prompts, pooled over all prompts of the event,
which gives the least variance, at most that of either. b is estimated from the same trajectories, a bias of order one
over their number (of all prompts together).

Truncation: a trajectory that reaches the budget of tokens before the horizon counts as without the event from there
on, in all three. So they are then too low, by at most the `truncated` share, which is reported; more --max_tokens make
it 0. A trajectory that ends for another reason (death, a stop token) is without the event from there on in truth.

Void trajectories, whose events fell before the prediction time at every try, tell nothing and are left out (`void` is
their share); where all of a prompt's are void the risk is not known (NaN).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Risks:
    """Of P prompts and T events, each [P, T] float64: three estimates, their standard errors, and the shares of
    trajectories that were truncated and that were void.
    """

    count: np.ndarray
    count_error: np.ndarray
    expected: np.ndarray
    expected_error: np.ndarray
    combined: np.ndarray
    combined_error: np.ndarray
    truncated: np.ndarray
    void: np.ndarray


def risks(
    prompt: np.ndarray,
    happened: np.ndarray,
    expected: np.ndarray,
    truncated: np.ndarray,
    void: np.ndarray,
    prompts: int,
) -> Risks:
    """The risks of `prompts` prompts.

    Args:
      prompt: [N] which prompt a trajectory belongs to, 0 .. prompts - 1; each has the same number of them.
      happened: [N, T] bool, within the horizon.
      expected: [N, T] the sum s of each trajectory.
      truncated: [N, T] bool, ended by the budget of tokens before the event and the horizon.
      void: [N] bool.
    """
    order = np.argsort(prompt, kind="stable")
    samples = len(prompt) // max(prompts, 1)

    def by_prompt(values: np.ndarray) -> np.ndarray:
        return values[order].reshape(prompts, samples, -1).astype(np.float64)

    left = ~by_prompt(void).astype(bool)
    number = left.sum(axis=1)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.where(left, values, 0).sum(axis=1)
        return np.divide(total, number, out=np.full(total.shape, np.nan), where=number > 0)

    def error(values: np.ndarray) -> np.ndarray:
        squares = np.where(left, values - mean(values)[:, None], 0) ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(number > 1, np.sqrt(squares.sum(axis=1) / (number - 1) / number), np.nan)

    counts, sums = by_prompt(happened), by_prompt(expected)
    both = counts - _slope(counts, counts - sums, left) * (counts - sums)
    errors = error(counts)
    # Of none or all of N the variance is not known to be 0: that of (k + 1/2) of N + 1.
    near = (np.where(left, counts, 0).sum(axis=1) + 0.5) / (number + 1)
    errors = np.where(errors == 0, np.sqrt(near * (1 - near) / np.maximum(number, 1)), errors)
    estimates = [mean(counts), errors, mean(sums), error(sums), mean(both), error(both)]
    share = np.broadcast_to((~left).mean(axis=1), counts.shape[::2])
    return Risks(*estimates, mean(by_prompt(truncated)), share)


def _slope(values: np.ndarray, other: np.ndarray, left: np.ndarray) -> np.ndarray:
    """[T]: the regression slope of [P, N, T] values on others within prompts, all pooled, of the [P, N, 1] that are
    left; 1 where the values are flat, which tell nothing of it.
    """
    number = np.maximum(left.sum(axis=1, keepdims=True), 1)

    def centred(x: np.ndarray) -> np.ndarray:
        return np.where(left, x - np.where(left, x, 0).sum(axis=1, keepdims=True) / number, 0)

    own, theirs = centred(values), centred(other)
    spread, shared = (theirs**2).sum(axis=(0, 1)), (theirs * own).sum(axis=(0, 1))
    slope = np.divide(shared, spread, out=np.zeros_like(spread), where=spread > 0)
    return np.where((own**2).sum(axis=(0, 1)) > 0, slope, 1.0)
