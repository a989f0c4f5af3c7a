"""The trigram model against counting by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from ehrjax.metrics import ngrams


def test_windows_stay_within_segments():
    tokens = np.array([[5, 6, 7, 8, 9, 0]])
    segments = np.array([[1, 1, 1, 2, 2, 0]])
    contexts, targets = ngrams.windows(tokens, segments)
    assert targets.tolist() == [6, 7, 9]
    assert contexts.tolist() == [[-1, 5], [5, 6], [-1, 8]]


def test_probabilities():
    rng = np.random.default_rng(0)
    size = 7
    rows = [rng.integers(0, size, 40) for _ in range(6)]
    tokens = np.stack(rows)
    contexts, targets = ngrams.windows(tokens, np.ones_like(tokens))
    held = ngrams.windows(rng.integers(0, size, (2, 30)), np.ones((2, 30), int))
    model = ngrams.fit(contexts, targets, size, held)
    assert model.weights.sum() == pytest.approx(1) and (model.weights >= 0).all()
    seen = {n: Counter() for n in (1, 2, 3)}
    histories = {n: Counter() for n in (1, 2, 3)}
    for (a, b), c in zip(contexts.tolist(), targets.tolist()):
        for n, history in ((1, ()), (2, (b,)), (3, (a, b))):
            seen[n][*history, c] += 1
            histories[n][history] += 1
    losses = model.losses(*held)
    for (a, b), c, loss in zip(held[0].tolist(), held[1].tolist(), losses):
        p = model.weights[0] / size
        for n, history in ((1, ()), (2, (b,)), (3, (a, b))):
            if histories[n][history]:
                p += model.weights[n] * seen[n][*history, c] / histories[n][history]
        assert loss == pytest.approx(-np.log(p), abs=1e-12)
    # All tokens together have probability 1 wherever all histories are known.
    known = held[0][[histories[3][tuple(h)] > 0 for h in held[0].tolist()]][:1].repeat(size, 0)
    assert np.exp(-model.losses(known, np.arange(size))).sum() == pytest.approx(1)
    # The weights are the best there are: moving them makes the held sequences less likely.
    for shift in np.eye(4):
        other = ngrams.Trigrams(size, model.tables, 0.9 * model.weights + 0.1 * shift)
        assert other.losses(*held).mean() >= losses.mean() - 1e-5
