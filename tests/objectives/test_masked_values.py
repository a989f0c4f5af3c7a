"""Masked codes with their values: what is predicted is not shown, and only hidden values count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core.errors import InputError
from ehrjax.objectives import masked_codes, masked_values

V, D = 40, 8


def batch() -> dict[str, jnp.ndarray]:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 32)).astype(np.float32)
    values[generator.random((3, 32)) < 0.5] = np.nan
    segments = np.repeat([[1] * 20 + [2] * 8 + [0] * 4], 3, axis=0)
    return {
        "tokens": jnp.asarray(generator.integers(5, V, (3, 32)), jnp.int32),
        "segment_ids": jnp.asarray(segments, jnp.int32),
        "values": jnp.asarray(values),
    }


def objective(**settings):
    config = masked_values.Config(tied=True, **settings)
    return masked_values.Objective(config, vocab_size=V, num_specials=5, mask_id=4)


def test_values_are_hidden_with_their_codes_and_nowhere_else():
    given = batch()
    made = objective(mask_rate=0.3).prepare(given, jax.random.key(1))
    plain = masked_codes.Objective(masked_codes.Config(mask_rate=0.3), vocab_size=V, num_specials=5, mask_id=4)
    np.testing.assert_array_equal(made["tokens"], plain.prepare(given, jax.random.key(1))["tokens"])
    index, there = np.asarray(made["target_index"]), np.asarray(made["target_weights"]) > 0
    chosen = np.zeros((3, 32), bool)
    for row in range(3):
        chosen[row, index[row][there[row]]] = True
    before, after = np.asarray(given["values"]), np.asarray(made["values"])
    assert np.isnan(after[chosen]).all()
    np.testing.assert_array_equal(after[~chosen], before[~chosen])
    taken = np.take_along_axis(before, index, axis=1)
    np.testing.assert_array_equal(np.asarray(made["target_values"])[there], taken[there])
    assert np.isnan(np.asarray(made["target_values"])[~there]).all()


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.5])
def test_the_loss_adds_the_squared_error_of_hidden_values(weight):
    task = objective(mask_rate=0.3, value_weight=weight)
    head = task.head()
    generator = np.random.default_rng(1)
    hidden, table = (jnp.asarray(generator.normal(size=s), jnp.float32) for s in ((3, 32, D), (V, D)))
    params = head.init(jax.random.key(0), hidden, table)["params"]
    assert {"transform", "norm", "bias", "value_transform", "value_norm", "value"} == set(params)
    made = task.prepare(batch(), jax.random.key(1))
    apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
    outputs = {"hidden": hidden, "table": table}
    total, count, sums = task.loss(apply, params, outputs, made)
    codes, _, _ = masked_codes.Objective.loss(task, apply, params, outputs, made)
    predicted = np.asarray(apply(params, hidden, None, "values"))
    predicted = np.take_along_axis(predicted, np.asarray(made["target_index"]), axis=1)
    error = np.nansum((predicted - np.asarray(made["target_values"])) ** 2)
    assert error > 1 and float(sums["value_error"]) == pytest.approx(error, rel=1e-5)
    assert float(total) == pytest.approx(float(codes) + weight * error, rel=1e-5)
    gradient = jax.grad(lambda p: task.loss(apply, p, outputs, made)[0])(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_a_negative_weight_is_refused():
    with pytest.raises(InputError, match="value_weight is -1"):
        objective(value_weight=-1)
