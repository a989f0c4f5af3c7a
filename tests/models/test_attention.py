"""attend(): against a plain softmax in float64, and every implementation against the others."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from ehrjax.core.errors import InputError
from ehrjax.models.attention import attend

DEVICES = 8
SEGMENTS = np.array([[1] * 5 + [2] * 7 + [0] * 4, [1] * 16, [3] * 1 + [1] * 9 + [2] * 5 + [0], [0] * 16], np.int32)


def inputs(batch: int = 4, length: int = 16, heads: int = 2, width: int = 8, seed: int = 0) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(batch, length, heads, width)), jnp.float32) for _ in range(3)]


def reference(q, k, v, visible, bias=0.0):
    """Row by row in float64; a query that sees nothing has zeros."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    scores = np.einsum("bqhk,bvhk->bhqv", q, k) / np.sqrt(q.shape[-1]) + bias
    weights = np.where(visible[:, None], np.exp(scores - scores.max(-1, keepdims=True)), 0)
    weights = weights / np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    return np.einsum("bhqv,bvhk->bqhk", weights, v)


@pytest.mark.parametrize("implementation", ["xla", "rows"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 2])
def test_against_a_plain_softmax(implementation, causal, window):
    q, k, v = inputs()
    out = attend(
        q,
        k,
        v,
        segment_ids=jnp.asarray(SEGMENTS),
        causal=causal,
        window=window,
        implementation=implementation,
    )
    distance = np.arange(16)[None, :] - np.arange(16)[:, None]
    visible = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS > 0)[:, :, None]
    if causal:
        visible &= distance <= 0
    if window is not None:
        visible &= np.abs(distance) <= window
    np.testing.assert_allclose(out, reference(q, k, v, visible), atol=2e-6)
    assert not np.asarray(out)[SEGMENTS == 0].any()


@pytest.mark.parametrize("implementation", ["xla", "rows"])
def test_cross_attention_and_queries_without_keys(implementation):
    q, k, v = inputs()
    k, v = k[:, :10], v[:, :10]
    kv_segments = np.array([[1] * 10, [2] * 10, [1, 2] * 5, [1] * 10], np.int32)
    out = attend(
        q,
        k,
        v,
        segment_ids=jnp.asarray(SEGMENTS),
        kv_segment_ids=jnp.asarray(kv_segments),
        implementation=implementation,
    )
    visible = (SEGMENTS[:, :, None] == kv_segments[:, None]) & (SEGMENTS > 0)[:, :, None]
    np.testing.assert_allclose(out, reference(q, k, v, visible), atol=2e-6)
    assert not np.asarray(out)[1].any()


def test_bias():
    q, k, v = inputs()
    bias = np.random.default_rng(1).normal(size=(1, 2, 16, 16))
    visible = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS > 0)[:, :, None]
    out = attend(q, k, v, segment_ids=jnp.asarray(SEGMENTS), bias=jnp.asarray(bias, jnp.float32))
    np.testing.assert_allclose(out, reference(q, k, v, visible, bias), atol=2e-6)
    with pytest.raises(InputError, match="'rows' cannot be used: it has no bias"):
        attend(q, k, v, segment_ids=jnp.asarray(SEGMENTS), bias=jnp.asarray(bias), implementation="rows")


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rows_is_xla_with_its_gradients_and_its_dropout(rate, dtype):
    q, k, v = (x.astype(dtype) for x in inputs(batch=6, length=64, width=16))
    segment_ids = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 4, (6, 64)), axis=1), jnp.int32)

    def loss(implementation):
        def function(q, k, v):
            out = attend(
                q,
                k,
                v,
                segment_ids=segment_ids,
                dropout_rate=rate,
                dropout_key=jax.random.key(0),
                deterministic=False,
                implementation=implementation,
            )
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), out

        return jax.jit(jax.value_and_grad(function, (0, 1, 2), has_aux=True))(q, k, v)

    (_, out), grads = loss("rows")
    (_, expected), expected_grads = loss("xla")
    tolerance = 5e-6 if dtype == jnp.float32 else 0.05
    for a, b in zip((out, *grads), (expected, *expected_grads)):
        assert a.dtype == dtype and bool(jnp.isfinite(a).all())
        np.testing.assert_allclose(np.asarray(a, np.float32), np.asarray(b, np.float32), atol=tolerance)


def test_gradient_of_rows_against_finite_differences():
    q, k, v = inputs(batch=2, length=8, width=4)
    segment_ids = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8], jnp.int32)

    def function(q, k, v):
        out = attend(
            q,
            k,
            v,
            segment_ids=segment_ids,
            dropout_rate=0.2,
            dropout_key=jax.random.key(3),
            deterministic=False,
            implementation="rows",
        )
        return jnp.sum(jnp.cos(out))

    check_grads(function, (q, k, v), order=1, modes=["rev"], atol=2e-2, rtol=2e-2)


def test_dropout_keeps_the_mean_and_needs_a_key():
    q, k, v = inputs(batch=64, length=32)
    segment_ids = jnp.ones((64, 32), jnp.int32)
    plain = attend(q, k, v, segment_ids=segment_ids)
    dropped = attend(
        q,
        k,
        v,
        segment_ids=segment_ids,
        dropout_rate=0.1,
        dropout_key=jax.random.key(0),
        deterministic=False,
    )
    difference = np.asarray(dropped - plain)
    assert difference.std() > 0.02 and abs(difference.mean()) < 5 * difference.std() / np.sqrt(difference.size)
    with pytest.raises(ValueError, match="dropout_key"):
        attend(q, k, v, segment_ids=segment_ids, dropout_rate=0.1, deterministic=False)


@pytest.mark.parametrize("implementation", ["xla", "rows"])
def test_another_segment_changes_no_bit(implementation):
    q, k, v = inputs()
    changed = [x.at[:, 5:12].add(1.5) for x in (q, k, v)]
    call = jax.jit(lambda q, k, v: attend(q, k, v, segment_ids=jnp.asarray(SEGMENTS), implementation=implementation))
    before, after = np.asarray(call(q, k, v)), np.asarray(call(*changed))
    np.testing.assert_array_equal(before[0, :5], after[0, :5])
    assert (before[0, 5:12] != after[0, 5:12]).all()


def test_rows_that_are_split_over_devices():
    q, k, v = inputs(batch=16, length=256, heads=8)
    segment_ids = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 5, (16, 256)), axis=1), jnp.int32)

    def function(q, k, v, segment_ids):
        out = attend(
            q,
            k,
            v,
            segment_ids=segment_ids,
            dropout_rate=0.1,
            dropout_key=jax.random.key(0),
            deterministic=False,
            implementation="rows",
        )
        return jnp.sum(out**2), out

    single = jax.jit(jax.value_and_grad(function, (0, 1, 2), has_aux=True))(q, k, v, segment_ids)
    mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
    rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    with jax.set_mesh(mesh):
        program = jax.jit(jax.value_and_grad(function, (0, 1, 2), has_aux=True))
        placed = [jax.device_put(x, rows) for x in (q, k, v, segment_ids)]
        sharded = program(*placed)
        text = program.lower(*placed).compile().as_text()
    for a, b in zip(jax.tree.leaves(sharded), jax.tree.leaves(single)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert "all-gather" not in text and "all-to-all" not in text


def test_bad_choices():
    q, k, v = inputs()
    with pytest.raises(InputError, match="'flash'; it must be one of"):
        attend(q, k, v, segment_ids=jnp.asarray(SEGMENTS), implementation="flash")
    with pytest.raises(InputError, match="'cudnn' cannot be used: there is no GPU"):
        attend(q, k, v, segment_ids=jnp.asarray(SEGMENTS), implementation="cudnn")


@pytest.mark.gpu
@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs a GPU")
def test_cudnn_is_xla():
    q, k, v = (x.astype(jnp.bfloat16) for x in inputs(batch=4, length=128, heads=4, width=32))
    segment_ids = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 4, (4, 128)), axis=1), jnp.int32)
    out = {}
    for implementation in ("cudnn", "xla"):

        def loss(q, k, v, implementation=implementation):
            result = attend(q, k, v, segment_ids=segment_ids, implementation=implementation)
            return jnp.sum(result.astype(jnp.float32) ** 2), result

        out[implementation] = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    for a, b in zip(jax.tree.leaves(out["cudnn"]), jax.tree.leaves(out["xla"])):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.linalg.norm(a - b) / np.linalg.norm(b) < 0.02
