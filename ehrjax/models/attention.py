"""One attention for every model: packed segments, causal, windowed, biased, with dropout."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.core.precision import contract

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
# Far below any score yet finite in float32 and bf16, so that a row without a single visible key never makes a NaN.
_MASKED = -1e30


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
    implementation: 'xla', 'cudnn' (flash attention), or 'auto': cuDNN where it is legal, else XLA.
    dtype: that of q. bf16 inputs mean bf16 matmul operands; the softmax is float32 in every case.
    Raises InputError for an unknown implementation or a cuDNN call that cuDNN cannot do.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(f"attention implementation is {implementation!r}; it must be one of {IMPLEMENTATIONS}.")
    kv_segment_ids = segment_ids if kv_segment_ids is None else kv_segment_ids
    rate = 0.0 if deterministic else dropout_rate
    if rate and dropout_key is None:
        raise ValueError("attention dropout needs a dropout_key")
    if implementation != "xla":
        obstacle = _cudnn_obstacle(q, k, rate)
        if obstacle is None:
            mask = _visible(segment_ids, kv_segment_ids, causal, window)[:, None]
            out = jax.nn.dot_product_attention(q, k, v, bias=bias, mask=mask, implementation="cudnn")
            seen = (mask.any(-1) & (segment_ids > 0)[:, None]).swapaxes(1, 2)[..., None]
            return jnp.where(seen, out, 0)
        if implementation == "cudnn":
            raise InputError(f"cuDNN attention cannot be used: {obstacle}.")
    return _xla(q, k, v, segment_ids, kv_segment_ids, causal, window, bias, rate, dropout_key)


def _xla(q, k, v, segment_ids, kv_segment_ids, causal, window, bias, rate, dropout_key):
    dtype = q.dtype
    # Heads before lengths: XLA's CPU backend has no kernel for some bf16 products of the other layout.
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    scores = contract("bhqk,bhvk->bhqv", q * (1.0 / math.sqrt(q.shape[-1])), k, dtype)
    if bias is not None:
        scores = scores + bias.astype(jnp.float32)
    # The mask is an elementwise function of [B, L] ids: XLA fuses it into the softmax, and no [B, L, L] is stored.
    scores = jnp.where(_visible(segment_ids, kv_segment_ids, causal, window)[:, None], scores, _MASKED)
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    probabilities = weights / weights.sum(axis=-1, keepdims=True)
    if rate:
        keep = rng.keep_mask(rng.words(dropout_key), probabilities.shape, rate)
        probabilities = jnp.where(keep, probabilities * (1.0 / (1.0 - rate)), 0.0)
    out = contract("bhqv,bhvk->bhqk", probabilities, v, dtype, dtype).swapaxes(1, 2)
    seen = (top[..., 0] > _MASKED / 2) & (segment_ids > 0)[:, None]
    return jnp.where(seen.swapaxes(1, 2)[..., None], out, 0)


def _visible(
    segment_ids: Int[Array, "batch q"], kv_segment_ids: Int[Array, "batch kv"], causal: bool, window: int | None
) -> Bool[Array, "batch q kv"]:
    """Which keys a query may see. Padding sees padding here; its result is zeroed afterwards."""
    visible = segment_ids[:, :, None] == kv_segment_ids[:, None, :]
    if causal or window is not None:
        ahead = jax.lax.broadcasted_iota(jnp.int32, visible.shape, 2) - jax.lax.broadcasted_iota(
            jnp.int32, visible.shape, 1
        )
        if causal:
            visible &= ahead <= 0
        if window is not None:
            visible &= jnp.abs(ahead) <= window
    return visible


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
