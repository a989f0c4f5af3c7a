"""An interpolated trigram model of token sequences: what a sequence model must beat (Jelinek and Mercer 1980)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ROUNDS = 2000
_STILL = 1e-6


@dataclass(frozen=True)
class Trigrams:
    """P(c | a, b) = w3 f(c | a, b) + w2 f(c | b) + w1 f(c) + w0 / V, f the relative frequencies of train.

    Attributes:
      size: V, the tokens.
      tables: for n = 1, 2, 3 the sorted keys of n-grams with their counts, and those of their histories.
      weights: w0 .. w3.
    """

    size: int
    tables: tuple[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray], ...]
    weights: np.ndarray

    def parts(self, contexts: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """[N, 4]: 1 / V and the three relative frequencies of each target.

        contexts: [N, 2] the two tokens before, the nearest last; -1 where the sequence had not begun.
        """
        columns = [np.full(len(targets), 1.0 / self.size)]
        for n, (keys, counts, histories, totals) in enumerate(self.tables, start=1):
            history = _keys(contexts[:, 3 - n :], self.size)
            found = _count(keys, counts, history * (self.size + 1) + targets)
            of = _count(histories, totals, history)
            columns.append(np.divide(found, of, out=np.zeros(len(targets)), where=of > 0))
        return np.stack(columns, axis=1)

    def losses(self, contexts: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """[N] float64: minus the log of each target's probability."""
        return -np.log(self.parts(contexts, targets) @ self.weights)


def fit(contexts: np.ndarray, targets: np.ndarray, size: int, held: tuple[np.ndarray, np.ndarray]) -> Trigrams:
    """Counts on train, and the weights by EM on other sequences.

    Args:
      contexts, targets: [N, 2] and [N] of train; see Trigrams.parts.
      size: V.
      held: contexts and targets that the weights are fitted on.
    """
    tables = []
    for n in (1, 2, 3):
        history = _keys(contexts[:, 3 - n :], size)
        keys, counts = np.unique(history * (size + 1) + targets, return_counts=True)
        histories, totals = np.unique(history, return_counts=True)
        tables.append((keys, counts, histories, totals))
    model = Trigrams(size, tuple(tables), np.full(4, 0.25))
    parts, weights = model.parts(*held), model.weights
    for _ in range(_ROUNDS):
        shares = parts * weights
        old, weights = weights, (shares / shares.sum(axis=1, keepdims=True)).mean(axis=0)
        if np.abs(weights - old).max() < _STILL:
            break
    return Trigrams(size, model.tables, weights)


def windows(tokens: np.ndarray, segment_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Contexts and targets of packed rows [B, L]: each token of a window but its first, as next_token has it."""
    before = [np.full(tokens.shape, -1, np.int64) for _ in range(2)]
    for back, column in ((2, 0), (1, 1)):
        same = segment_ids[:, back:] == segment_ids[:, :-back]
        before[column][:, back:] = np.where(same, tokens[:, :-back], -1)
    follows = np.zeros(tokens.shape, bool)
    follows[:, 1:] = (segment_ids[:, 1:] == segment_ids[:, :-1]) & (segment_ids[:, 1:] > 0)
    return np.stack([b[follows] for b in before], axis=1), tokens[follows].astype(np.int64)


def _keys(history: np.ndarray, size: int) -> np.ndarray:
    """One number for each history [N, 0..2]."""
    key = np.zeros(len(history), np.int64)
    for column in range(history.shape[1]):
        key = key * (size + 1) + history[:, column] + 1
    return key


def _count(keys: np.ndarray, counts: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, counts[place], 0).astype(np.float64)
