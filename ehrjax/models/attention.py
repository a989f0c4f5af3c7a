"""One attention for every model: packed segments, causal, windowed, biased, with dropout."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.core.layers import batch_shards
from ehrjax.core.precision import contract

IMPLEMENTATIONS = ("auto", "xla", "rows", "cudnn")
# Far below any score yet finite in float32 and bf16, so that a row without a single visible key never makes a
# NaN.
_MASKED = -1e30
# Scores of one pass of 'rows': 8 MB of float32, so that a pass stays in the cache.
_PASS = 2**21


def attend(
    q: Float[Array, "batch q heads k"],
    k: Float[Array, "batch kv heads k"],
    v: Float[Array, "batch kv heads k"],
    *,
    segment_ids: Int[Array, "batch q"],
    kv_segment_ids: Int[Array, "batch kv"] | None = None,
    causal: bool = False,
    window: int | None = None,
    bias: Float[Array, "batch_or_1 heads_or_1 q kv"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    deterministic: bool = True,
    implementation: str = "auto",
) -> Float[Array, "batch q heads k"]:
    """Scaled dot-product attention in which nothing crosses from one packed segment to another.

    segment_ids: a query sees the keys of its own segment; 0 is padding, whose rows come out as exact zeros.
    kv_segment_ids: the segments of the keys (None: the same as the queries').
    causal: a query sees keys at its own index and before. window: ... and no more than `window` places away.
    bias: added to the scaled scores. dropout_*: on the attention probabilities, off when deterministic.
    implementation: 'xla' (all scores at once), 'rows' (a few rows at a time, scores made again in the
    backward pass: fast on a CPU), 'cudnn' (flash attention), or 'auto': the fastest that is legal. 'xla' and
    'rows' drop the same probabilities. dtype: that of q; bf16 means bf16 matmul operands. The softmax is
    float32 in every case. Raises InputError for an unknown implementation or one that cannot do what is
    asked.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(f"attention implementation is {implementation!r}; it must be one of {IMPLEMENTATIONS}.")
    rate = 0.0 if deterministic else dropout_rate
    if rate and dropout_key is None:
        raise ValueError("attention dropout needs a dropout_key")
    obstacle = {
        "cudnn": _cudnn_obstacle(q, k, rate),
        "rows": None if bias is None else "it has no bias",
        "xla": None,
    }
    if implementation == "auto":
        order = ("rows", "xla") if jax.default_backend() == "cpu" else ("cudnn", "xla")
        implementation = next(name for name in order if obstacle[name] is None)
    if obstacle[implementation] is not None:
        raise InputError(f"attention implementation {implementation!r} cannot be used: {obstacle[implementation]}.")

    visible = _visible(segment_ids, kv_segment_ids, causal, window)
    seen = segment_ids > 0
    if kv_segment_ids is not None:  # Otherwise a query sees itself.
        seen &= visible.any(axis=-1)
    if implementation == "cudnn":
        out = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=visible[:, None], implementation="cudnn")
    else:
        scaled = q * (1.0 / math.sqrt(q.shape[-1]))
        words = (jnp.zeros((), jnp.uint32),) * 2 if rate == 0.0 else rng.words(dropout_key)
        # One stream for each [q, kv] plane, so that a plane can be made on its own.
        planes = rng.split(words, (q.shape[0], q.shape[2], 1, 1))
        if implementation == "rows":
            out = _by_rows(scaled, k, v, visible, planes, rate)
        else:
            out = _attend(scaled, k, v, visible, planes, rate, bias)[0]
    return jnp.where(seen[..., None, None], out, 0)


def attention_weights(
    q: Float[Array, "batch q heads k"],
    k: Float[Array, "batch q heads k"],
    segment_ids: Int[Array, "batch q"],
    *,
    causal: bool = False,
    window: int | None = None,
) -> Float[Array, "batch heads q q"]:
    """The probabilities by which `attend` mixes values, float32; rows of padding are zeros."""
    scaled, k = (q * (1.0 / math.sqrt(q.shape[-1]))).swapaxes(1, 2), k.swapaxes(1, 2)
    scores = _scores(scaled, k, _visible(segment_ids, None, causal, window))
    weights = jax.nn.softmax(scores, axis=-1)
    return jnp.where((segment_ids > 0)[:, None, :, None], weights, 0.0)


def _visible(
    segment_ids: Int[Array, "batch q"],
    kv_segment_ids: Int[Array, "batch kv"] | None,
    causal: bool,
    window: int | None,
) -> Bool[Array, "batch q kv"]:
    """Which keys a query may see. Padding sees padding here; its result is zeroed afterwards."""
    kv_segment_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    visible = segment_ids[:, :, None] == kv_segment_ids[:, None, :]
    if causal or window is not None:
        queries, keys = (jax.lax.broadcasted_iota(jnp.int32, visible.shape, axis) for axis in (1, 2))
        if causal:
            visible &= keys <= queries
        if window is not None:
            visible &= jnp.abs(keys - queries) <= window
    return visible


def _scores(q: Array, k: Array, visible: Array, bias: Array | None = None) -> Float[Array, "batch heads q kv"]:
    scores = contract("bhqk,bhvk->bhqv", q, k, q.dtype)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    return jnp.where(visible[:, None], scores, _MASKED)


def _keep(planes: rng.Words, scores: Array, rate: float) -> Bool[Array, "batch heads q kv"]:
    return rng.keep_mask(planes, (1, 1, *scores.shape[2:]), rate)


def _attend(q, k, v, visible, planes, rate, bias=None):
    """Attention of rows that are all in hand: the result, and the log of each softmax's denominator."""
    dtype = q.dtype
    # Heads before lengths: XLA's CPU backend has no kernel for some bf16 products of the other layout.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    scores = _scores(q, k, visible, bias)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    if rate:
        weights = jnp.where(_keep(planes, scores, rate), weights, 0.0)
    # Divided after the product, where there are K columns instead of as many as keys.
    out = contract("bhqv,bhvk->bhqk", weights, v, dtype) * (1.0 / ((1.0 - rate) * total))
    return out.astype(dtype).swapaxes(1, 2), top + jnp.log(total)


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _by_rows(q, k, v, visible, planes, rate):
    """`_attend`, a few rows at a time, storing nothing of the size of the scores.

    On a CPU a step is limited by memory: all scores of a layer at once leave the cache between any two
    operations.
    """
    return _by_rows_forward(q, k, v, visible, planes, rate)[0]


def _by_rows_forward(q, k, v, visible, planes, rate):
    # int8: XLA's CPU backend does not vectorise a comparison of ids that are sliced inside the loop.
    visible = visible.astype(jnp.int8)
    out, log_total = _map_rows(
        lambda q, k, v, visible, *planes: _attend(q, k, v, visible > 0, planes, rate),
        q,
        k,
        v,
        visible,
        *planes,
    )
    return out, (q, k, v, visible, planes, out, log_total)


def _by_rows_backward(rate, residuals, cotangent):
    q, k, v, visible, planes, out, log_total = residuals
    step = partial(_attend_backward, rate)
    grads = _map_rows(step, q, k, v, visible, out, log_total, cotangent, *planes)
    return (*grads, None, None)


_by_rows.defvjp(_by_rows_forward, _by_rows_backward)


def _attend_backward(rate, q, k, v, visible, out, log_total, cotangent, *planes):
    """The gradients of `_attend`, with the probabilities made again (Dao et al. 2022, FlashAttention)."""
    dtype = q.dtype
    q, k, v, out, cotangent = (x.swapaxes(1, 2) for x in (q, k, v, out, cotangent))
    product = partial(contract, compute=dtype)
    scores = _scores(q, k, visible > 0)
    probabilities = jnp.exp(scores - log_total)
    grad_kept = product("bhqk,bhvk->bhqv", cotangent, v)
    inner = (out.astype(jnp.float32) * cotangent.astype(jnp.float32)).sum(axis=-1, keepdims=True)
    kept = probabilities
    if rate:
        kept = jnp.where(_keep(planes, scores, rate), probabilities * (1.0 / (1.0 - rate)), 0.0)
    grad_scores = kept * grad_kept - probabilities * inner
    grad_q = product("bhqv,bhvk->bhqk", grad_scores, k)
    grad_k = _transposed_product(grad_scores, q, product)
    grad_v = _transposed_product(kept, cotangent, product)
    return tuple(x.astype(dtype).swapaxes(1, 2) for x in (grad_q, grad_k, grad_v))


def _transposed_product(scores: Array, x: Array, product: Any) -> Float[Array, "batch heads kv k"]:
    """`einsum('bhqv,bhqk->bhvk')` by way of the transposed operand and result.

    The direct product runs 3 to 5 times slower on a CPU, and so would this one if XLA folded the
    transpositions in.
    """
    transposed = jax.lax.optimization_barrier(x.swapaxes(2, 3))
    return jax.lax.optimization_barrier(product("bhkq,bhqv->bhkv", transposed, scores)).swapaxes(2, 3)


def _map_rows(function: Any, *arrays: Array) -> tuple[Array, ...]:
    """`function` over a few rows of every array [B, ...] at a time.

    Rows that are split over devices are taken from every device at once, so that no device waits or fetches.
    """
    q, k = arrays[:2]
    shards = batch_shards(q.shape[0])
    rows = q.shape[0] // shards
    limit = max(1, _PASS // (q.shape[2] * q.shape[1] * k.shape[1]))
    each = max(n for n in range(1, rows + 1) if rows % n == 0 and n <= limit)

    def split(x: Array) -> Array:
        return jnp.moveaxis(x.reshape(shards, rows // each, each, *x.shape[1:]), 1, 0)

    def body(chunk: tuple[Array, ...]) -> Any:
        flat = (x.reshape(shards * each, *x.shape[2:]) for x in chunk)
        return jax.tree.map(lambda x: x.reshape(shards, each, *x.shape[1:]), function(*flat))

    results = jax.lax.map(body, tuple(split(x) for x in arrays))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(q.shape[0], *x.shape[3:]), results)


def _cudnn_obstacle(q: Array, k: Array, rate: float) -> str | None:
    """Why cuDNN flash attention is not legal here, or None if it is."""
    if jax.default_backend() != "gpu":
        return "there is no GPU"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it needs bf16 or fp16, not {q.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > 128:
        return f"the width of a head must be a multiple of 8 and at most 128, not {q.shape[-1]}"
    if q.shape[1] % 2 or k.shape[1] % 2:
        return "the lengths must be even"
    if rate:
        return "it has no attention dropout (set attention_dropout to 0)"
    return None
