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
it 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BUDGET = 3
"""The end of a trajectory that ran out of tokens (decode.Decoder)."""


@dataclass(frozen=True)
class Risks:
    """Of P prompts and T events, each [P, T] float64: three estimates, their standard errors, the truncated share."""

    count: np.ndarray
    count_error: np.ndarray
    expected: np.ndarray
    expected_error: np.ndarray
    combined: np.ndarray
    combined_error: np.ndarray
    truncated: np.ndarray


def risks(prompt: np.ndarray, happened: np.ndarray, expected: np.ndarray, end: np.ndarray, prompts: int) -> Risks:
    """The risks of `prompts` prompts.

    Args:
      prompt: [N] which prompt a trajectory belongs to, 0 .. prompts - 1; each has the same number of them.
      happened: [N, T] bool, within the horizon.
      expected: [N, T] the sum s of each trajectory.
      end: [N] why it ended.
    """
    order = np.argsort(prompt, kind="stable")
    samples = len(prompt) // max(prompts, 1)

    def by_prompt(values: np.ndarray) -> np.ndarray:
        return values[order].reshape(prompts, samples, -1).astype(np.float64)

    def error(values: np.ndarray) -> np.ndarray:
        if samples < 2:
            return np.full(values.shape[::2], np.nan)
        return values.std(axis=1, ddof=1) / np.sqrt(samples)

    counts, sums = by_prompt(happened), by_prompt(expected)
    both = counts - _slope(counts, counts - sums) * (counts - sums)
    cut = by_prompt((end == BUDGET)[:, None] & ~happened)
    estimates = [part for values in (counts, sums, both) for part in (values.mean(1), error(values))]
    return Risks(*estimates, cut.mean(1))


def _slope(values: np.ndarray, other: np.ndarray) -> np.ndarray:
    """[T]: the regression slope of [P, N, T] values on others within prompts, all pooled; 0 where these are flat."""
    centred = other - other.mean(axis=1, keepdims=True)
    spread = (centred**2).sum(axis=(0, 1))
    shared = (centred * (values - values.mean(axis=1, keepdims=True))).sum(axis=(0, 1))
    return np.divide(shared, spread, out=np.zeros_like(spread), where=spread > 0)
