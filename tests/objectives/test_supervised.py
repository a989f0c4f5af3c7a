"""Pooling, classification, regression and hazards against plain numpy; nothing crosses windows."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.objectives import classification, hazard, pooling, regression

VOCABULARY = dict(vocab_size=20, num_specials=5, mask_id=4)


def packed(width: int = 6) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Two rows: windows of 3, 4 and 1 tokens, and one of 5; padding behind."""
    generator = np.random.default_rng(0)
    segments = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 0], [1, 1, 1, 1, 1, 0, 0, 0, 0]], np.int32)
    anchors = np.array([[2, 6, 7, -1], [4, -1, -1, -1]], np.int32)
    return generator.standard_normal((2, 9, width)).astype(np.float32), {"segment_ids": segments, "anchors": anchors}


@pytest.mark.parametrize("how", pooling.POOLS)
def test_pooling(how):
    hidden, batch = packed()
    found = np.asarray(pooling.pool(jnp.asarray(hidden), batch, how))
    windows = {(0, 0): (0, 3), (0, 1): (3, 7), (0, 2): (7, 8), (1, 0): (0, 5)}
    for row in range(2):
        for segment in range(4):
            expected = np.zeros(6, np.float32)
            if (row, segment) in windows:
                part = hidden[row, slice(*windows[row, segment])]
                expected = {"cls": part[0], "last": part[-1], "mean": part.mean(0), "max": part.max(0)}[how]
            np.testing.assert_allclose(found[row, segment], expected, atol=1e-6)
    # A change in one window (or in padding) changes no other one.
    changed = hidden.copy()
    changed[0, 3:7] += 1
    changed[:, 8] = 99
    other = np.asarray(pooling.pool(jnp.asarray(changed), batch, how))
    np.testing.assert_array_equal(other[0, [0, 2]], found[0, [0, 2]])
    np.testing.assert_array_equal(other[1], found[1])


def heads(objective, width: int = 6):
    head = objective.head()
    params = head.init(jax.random.key(0), jnp.zeros((1, 1, width)), None)["params"]
    return (lambda p, *inputs: head.apply({"params": p}, *inputs)), params


def supervised(labels: np.ndarray) -> dict[str, np.ndarray]:
    _, batch = packed()
    weights = (batch["anchors"] >= 0).astype(np.float32)
    full = np.full((2, 4, labels.shape[1]), np.nan, np.float32)
    full[weights > 0] = labels
    return {**batch, "labels": full, "weights": weights}


def scores_of(objective, batch) -> np.ndarray:
    apply, params = heads(objective)
    hidden, _ = packed()
    out = objective.scores(apply, params, {"hidden": jnp.asarray(hidden)}, batch)
    return np.asarray(out, np.float64)[batch["weights"] > 0]


def loss_of(objective, batch):
    apply, params = heads(objective)
    hidden, _ = packed()
    outputs = {"hidden": jnp.asarray(hidden)}
    gradient = jax.grad(lambda p: objective.loss(apply, p, outputs, batch)[0])(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    return objective.loss(apply, params, outputs, batch), objective.predictions(apply, params, outputs, batch)


def test_yes_or_no_and_codes():
    for columns, weight in ((1, 1.0), (3, 1.0), (1, 5.0)):
        config = classification.Config(
            kind="codes" if columns > 1 else "yes_no", outputs=columns, positive_weight=weight
        )
        objective = classification.Objective(config, **VOCABULARY)
        labels = np.random.default_rng(1).integers(0, 2, (4, columns)).astype(np.float32)
        batch = supervised(labels)
        (total, count, sums), told = loss_of(objective, batch)
        p = 1 / (1 + np.exp(-scores_of(objective, batch)))
        expected = -(weight * labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean(axis=1)
        assert float(total) == pytest.approx(expected.sum(), abs=1e-5) and float(count) == 4
        assert float(sums["accuracy"]) == pytest.approx(((p > 0.5) == labels).mean(axis=1).sum(), abs=1e-5)
        np.testing.assert_allclose(np.asarray(told["probabilities"])[batch["weights"] > 0], p, atol=1e-6)


def test_classes():
    objective = classification.Objective(classification.Config(kind="classes", outputs=5, pooling="mean"), **VOCABULARY)
    labels = np.array([[0], [4], [2], [2]], np.float32)
    batch = supervised(labels)
    (total, _, sums), told = loss_of(objective, batch)
    scores = scores_of(objective, batch)
    p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    chosen = p[np.arange(4), labels[:, 0].astype(int)]
    assert float(total) == pytest.approx(-np.log(chosen).sum(), abs=1e-5)
    assert float(sums["accuracy"]) == (p.argmax(1) == labels[:, 0]).sum()
    np.testing.assert_allclose(np.asarray(told["probabilities"])[batch["weights"] > 0], p, atol=1e-6)


@pytest.mark.parametrize("loss", regression.LOSSES)
def test_regression(loss):
    config = regression.Config(loss=loss, centre=3.0, scale=2.0, non_negative=True, hidden=False)
    objective = regression.Objective(config, **VOCABULARY)
    labels = np.array([[1.0], [7.5], [0.0], [3.0]], np.float32)
    batch = supervised(labels)
    (total, _, sums), told = loss_of(objective, batch)
    scores = scores_of(objective, batch)
    error = scores - (labels - 3) / 2
    assert float(total) == pytest.approx((np.abs(error) if loss == "absolute" else error**2).sum(), abs=1e-4)
    values = np.maximum(scores * 2 + 3, 0)
    np.testing.assert_allclose(np.asarray(told["values"])[batch["weights"] > 0], values, atol=1e-5)
    assert float(sums["absolute_error"]) == pytest.approx(np.abs(values - labels).sum(), abs=1e-4)


def test_hazards():
    config = hazard.Config(edges_days=(10.0, 30.0, 100.0))
    objective = hazard.Objective(config, **VOCABULARY)
    generator = np.random.default_rng(2)
    edges = [0.0, 10.0, 30.0, 100.0]
    cases = [(5, 1), (10, 1), (10.5, 1), (99, 1), (101, 1), (5, 0), (10, 0), (20, 0), (100, 0), (500, 0), (0, 1)]
    scores = generator.standard_normal((len(cases), 3))
    found = objective.negative_log_likelihood(jnp.asarray(scores, jnp.float32), jnp.asarray(cases, jnp.float32))
    h = 1 / (1 + np.exp(-scores))
    for row, (days, event) in enumerate(cases):
        likelihood = 1.0
        for k in range(3):
            start, end = edges[k], edges[k + 1]
            if event and (start < days <= end or (days <= 0 and k == 0)):
                likelihood *= h[row, k]
                break
            share = min(max((days - start) / (end - start), 0), 1)
            likelihood *= (1 - h[row, k]) ** share
        assert float(found[row]) == pytest.approx(-np.log(likelihood), abs=1e-5), cases[row]
    batch = supervised(np.array(cases[:4], np.float32))
    (_, count, _), told = loss_of(objective, batch)
    hazards, survival = (np.asarray(told[name])[batch["weights"] > 0] for name in ("hazards", "survival"))
    np.testing.assert_allclose(survival, np.cumprod(1 - hazards, axis=1), atol=1e-6)
    assert float(count) == 4


def test_dropout_is_a_window_s_own_and_only_in_training():
    objective = classification.Objective(classification.Config(dropout=0.5), **VOCABULARY)
    batch = supervised(np.ones((4, 1), np.float32))
    apply, params = heads(objective)
    hidden, _ = packed()
    outputs = {"hidden": jnp.asarray(hidden)}
    key = rng.key_for(0, "test")
    losses = {}
    for name, prepared in (
        ("train", objective.prepare(batch, key)),
        ("again", objective.prepare(batch, key)),
        ("other", objective.prepare(batch, rng.key_for(1, "test"))),
        ("evaluate", objective.prepare(batch, key, evaluate=True)),
        ("plain", batch),
    ):
        losses[name] = float(objective.loss(apply, params, outputs, prepared)[0])
    assert losses["train"] == losses["again"] != losses["other"]
    assert losses["evaluate"] == losses["plain"] != losses["train"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classification.Config(kind="number"), "objective.kind is 'number'"),
        (lambda: classification.Config(pooling="sum"), "objective.pooling is 'sum'"),
        (lambda: classification.Config(dropout=1.0), "objective.dropout is 1.0"),
        (lambda: classification.Config(positive_weight=0.0), "positive_weight above 0"),
        (lambda: regression.Config(loss="cubic"), "objective.loss is 'cubic'"),
        (lambda: regression.Config(scale=0.0), "objective.scale is 0.0"),
        (lambda: hazard.Config(edges_days=(30.0, 30.0)), "numbers above 0 that rise"),
        (lambda: hazard.Config(edges_days=()), "numbers above 0 that rise"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(InputError, match=message):
        make()
