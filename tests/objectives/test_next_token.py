"""Next-token prediction: each token from those before it, never over the edge of a window."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.objectives import next_token

V, D = 30, 8


def objective(**settings):
    return next_token.Objective(next_token.Config(**settings), vocab_size=V, num_specials=5, mask_id=4)


def batch() -> dict[str, jnp.ndarray]:
    tokens = np.random.default_rng(0).integers(5, V, (2, 12)).astype(np.int32)
    segments = np.array([[1, 1, 1, 1, 2, 3, 3, 3, 0, 0, 0, 0], [1] * 12], np.int32)
    return {"tokens": jnp.asarray(tokens), "segment_ids": jnp.asarray(segments)}


def test_targets_are_the_next_tokens_of_the_same_window():
    made = objective().prepare(batch(), jax.random.key(0))
    tokens = np.asarray(batch()["tokens"])
    weights = np.asarray(made["target_weights"])
    assert weights[0].tolist() == [1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0] and weights[1].all()
    shown = np.asarray(made["target_tokens"])
    np.testing.assert_array_equal(shown[weights > 0], tokens[:, 1:][weights > 0])
    np.testing.assert_array_equal(made["tokens"], tokens)


@pytest.mark.parametrize("settings", [{}, {"use_bias": True}, {"tied": False, "use_bias": True}, {"absent": (0, 3)}])
def test_the_loss_is_the_plain_cross_entropy(settings):
    task = objective(chunk_size=5, **settings)
    head = task.head()
    generator = np.random.default_rng(1)
    hidden, table = (jnp.asarray(generator.normal(size=s), jnp.float32) for s in ((2, 12, D), (V, D)))
    params = head.init(jax.random.key(0), hidden, table).get("params", {})
    params = jax.tree.map(lambda x: x + 0.3, params)
    made = task.prepare(batch(), jax.random.key(0))
    apply = lambda p, *inputs: head.apply({"params": p}, *inputs)  # noqa: E731
    total, weight, sums = task.loss(apply, params, {"hidden": hidden, "table": table}, made)
    logits = np.asarray(apply(params, hidden, table))[:, :-1]
    if "absent" in settings:
        assert (logits[..., [0, 3]] < -1e29).all()
    log = logits - np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    picked = np.take_along_axis(log, np.asarray(made["target_tokens"])[..., None], axis=-1)[..., 0]
    assert float(total) == pytest.approx(-(picked * np.asarray(made["target_weights"])).sum(), rel=1e-5)
    assert float(weight) == 16 and 0 <= float(sums["top1"]) <= float(sums["top10"]) <= 16
    told = task.predictions(apply, params, {"hidden": hidden, "table": table}, made)
    np.testing.assert_allclose(np.asarray(told["loss"]), -picked, rtol=1e-4, atol=1e-5)
