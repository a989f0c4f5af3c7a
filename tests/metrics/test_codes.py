"""Many labels a row against scikit-learn and a loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics

from ehrjax.metrics import codes
from tests.metrics.drawn import SEEDS, repeated, weights


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = int(rng.integers(1, 25)), int(rng.integers(2, 30))
    truth = rng.random(shape) < rng.choice([0.05, 0.3])
    return truth, np.round(np.clip(0.2 * truth + 0.8 * rng.random(shape), 0, 1), int(rng.choice([1, 12])))


@settings(deadline=None)
@given(SEEDS)
def test_rankings_of_rows(seed: int) -> None:
    truth, p = drawn(seed)
    rows = weights(seed, len(truth))
    found = codes.rankings(truth, p, rows)
    assert list(found) == [*(f"recall_at_{k}" for k in codes.TOP), *(f"precision_at_{k}" for k in codes.TOP)] + [
        "average_precision"
    ]
    for r, row in enumerate(rows):
        chosen = [i for i in repeated(row) if truth[i].any()]
        if not chosen:
            assert all(np.isnan(values[r]) for values in found.values())
            continue
        y, q = truth[chosen], p[chosen]
        for k in codes.TOP:
            first = [sorted(range(len(one)), key=lambda c, one=one: (-one[c], c))[:k] for one in q]
            hits = [sum(labels[c] for c in top) for labels, top in zip(y, first)]
            assert found[f"recall_at_{k}"][r] == pytest.approx(np.mean(hits / y.sum(axis=1)), abs=1e-9)
            assert found[f"precision_at_{k}"][r] == pytest.approx(np.mean(hits) / k, abs=1e-9)
        ranked = metrics.average_precision_score(y, q, average="samples")
        assert found["average_precision"][r] == pytest.approx(ranked, abs=1e-9)
        assert ranked == pytest.approx(metrics.label_ranking_average_precision_score(y, q), abs=1e-9)


@settings(deadline=None)
@given(SEEDS)
def test_areas_over_codes(seed: int) -> None:
    truth, p = drawn(seed)
    rows = weights(seed, len(truth))
    found = codes.areas(truth, p, rows)
    for r, row in enumerate(rows):
        y, q = truth[repeated(row)], p[repeated(row)]
        both = [k for k in range(truth.shape[1]) if 0 < y[:, k].sum() < len(y)]
        for name, score in (("auroc", metrics.roc_auc_score), ("average_precision", metrics.average_precision_score)):
            micro = score(y.ravel(), q.ravel()) if 0 < y.sum() < y.size else np.nan
            macro = np.mean([score(y[:, k], q[:, k]) for k in both]) if both else np.nan
            assert found[f"micro_{name}"][r] == pytest.approx(micro, abs=1e-9, nan_ok=True)
            assert found[f"macro_{name}"][r] == pytest.approx(macro, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 3)])
def test_without_codes_nothing_is_said(shape: tuple[int, int]) -> None:
    truth, p = np.zeros(shape, bool), np.zeros(shape)
    for values in (codes.rankings(truth, p) | codes.areas(truth, p)).values():
        assert np.isnan(values).all() and values.shape == (1,)
