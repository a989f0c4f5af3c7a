"""Codes come again: the probability of each code from how recently and how often the subject had it before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ehrjax.evals.baselines.features import COUNT, Features

# Labels of train that the pooled share of a state counts as; chosen on tuning.
GRID = (1.0, 10.0, 100.0, 1000.0)
_OFTEN = 3


def states(features: Features, names: Sequence[str]) -> np.ndarray:
    """[N, K] int: what a history says of each code: 0 never; else the higher the more recent, and then the more often.

    Args:
      features: their count columns tell the windows; codes without any are never there.
      names: [K] codes.
    """
    windows = list(dict.fromkeys(name.split("|")[1] for name in features.count_names if name.startswith(f"{COUNT}|")))
    place = {name: i for i, name in enumerate(features.count_names)}
    found = np.zeros((len(features), len(names)), np.int64)
    # From the longest window to the shortest, so that the most recent state remains.
    for rank, window in enumerate(reversed(windows)):
        there = [(k, place[name]) for k, code in enumerate(names) if (name := f"{COUNT}|{window}|{code}") in place]
        if there:
            mine = [k for k, _ in there]
            counts = features.counts[:, [column for _, column in there]].toarray()
            found[:, mine] = np.where(counts > 0, 1 + rank * _OFTEN + np.minimum(counts, _OFTEN) - 1, found[:, mine])
    return found


def fit_previous(
    state: np.ndarray, truth: np.ndarray, train: np.ndarray, tuning: np.ndarray, predicted: np.ndarray
) -> tuple[np.ndarray, dict[str, object]]:
    """The share of train labels in the same state that hold the code, drawn to the share over all codes.

    Among labels that never had the code, it is drawn to the code's own rate instead.

    Args:
      state: [N, K] from `states`.
      truth: [N, K] 0 or 1.
      train, tuning, predicted: rows.

    Returns:
      [len(predicted), K] probabilities, and what was chosen.
    """
    height, codes = int(state.max(initial=0)) + 1, truth.shape[1]
    # [height, K] labels of train in each state, and those of them that hold the code.
    key = (state[train] * codes + np.arange(codes)).ravel()
    seen = np.bincount(key, minlength=height * codes).reshape(height, codes)
    held = np.bincount(key, truth[train].ravel(), minlength=height * codes).reshape(height, codes)
    rate = (held.sum(axis=0) + 0.5) / (len(train) + 1.0)
    pooled = (held.sum(axis=1) + rate.mean()) / (seen.sum(axis=1) + 1.0)
    prior = np.where(np.arange(height)[:, None] == 0, rate, pooled[:, None])
    best = (np.inf, GRID[1])
    for strength in GRID if len(tuning) else ():
        table = (held + strength * prior) / (seen + strength)
        given = table[state[tuning], np.arange(codes)]
        right = np.where(truth[tuning] > 0, given, 1.0 - given)
        loss = float(-np.log(np.maximum(right, 1e-15)).sum() / len(tuning))
        best = min(best, (loss, strength))
    table = (held + best[1] * prior) / (seen + best[1])
    chosen = {"strength": best[1], "tuning_loss": best[0] if len(tuning) else None}
    return table[state[predicted], np.arange(codes)], chosen
