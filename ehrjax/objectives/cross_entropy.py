"""Cross-entropy over a large vocabulary, in chunks: [positions, V] logits exist for one chunk at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

HeadApply = Callable[[Any, Array, Array | None], Array]
"""(head parameters, hidden [..., D], table or None) -> logits [..., V] in float32."""


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def chunked_loss(
    head_apply: HeadApply,
    chunk_size: int,
    head_params: Any,
    hidden: Float[Array, "batch m d"],
    table: Float[Array, "vocabulary e"] | None,
    targets: Int[Array, "batch m"],
    weights: Float[Array, "batch m"],
) -> tuple[Float[Array, ""], Int[Array, " k"]]:
    """Sum of weights x cross-entropy (float32), and how many weighted targets rank in the top 1, 5 and 10.

    chunk_size: positions of the whole batch in one chunk. The gradient is computed with the loss, chunk by
    chunk: its result is a scalar, so the backward pass only has to scale what is there, and no logits are
    stored or made twice.
    """

    def body(total, chunk):
        loss, hits = _chunk(head_apply, head_params, chunk[0], table, *chunk[1:])
        return (total[0] + loss, total[1] + hits), None

    start = jnp.float32(0), jnp.zeros(3, jnp.int32)
    return jax.lax.scan(body, start, _split(chunk_size, hidden, targets, weights))[0]


def _forward(head_apply, chunk_size, head_params, hidden, table, targets, weights):
    differentiate = jax.value_and_grad(partial(_chunk, head_apply), argnums=(0, 1, 2), has_aux=True)

    def body(total, chunk):
        loss, grads, hits = total
        (more_loss, more_hits), (params, hidden, table_) = differentiate(head_params, chunk[0], table, *chunk[1:])
        grads = jax.tree.map(jnp.add, grads, (params, table_))
        return (loss + more_loss, grads, hits + more_hits), hidden

    zeros = jax.tree.map(jnp.zeros_like, (head_params, table))
    start = jnp.float32(0), zeros, jnp.zeros(3, jnp.int32)
    (loss, (params, table_), hits), pieces = jax.lax.scan(body, start, _split(chunk_size, hidden, targets, weights))
    batch, length, width = hidden.shape
    grad_hidden = jnp.moveaxis(pieces, 0, 1).reshape(batch, -1, width)[:, :length]
    return (loss, hits), (params, grad_hidden, table_)


def _backward(head_apply, chunk_size, grads, cotangent):
    scaled = jax.tree.map(lambda g: (g * cotangent[0]).astype(g.dtype), grads)
    return (*scaled, None, None)


chunked_loss.defvjp(_forward, _backward)


def chunked_ranks(
    head_apply: HeadApply,
    chunk_size: int,
    head_params: Any,
    hidden: Float[Array, "batch m d"],
    table: Float[Array, "vocabulary e"] | None,
    targets: Int[Array, "batch m"],
) -> tuple[Float[Array, "batch m"], Int[Array, "batch m"]]:
    """Cross-entropy and rank (0 is best) of every target."""

    def body(_, chunk):
        logits = head_apply(head_params, chunk[0], table)
        return None, (_cross_entropy(logits, chunk[1]), rank(logits, chunk[1]))

    _, pieces = jax.lax.scan(body, None, _split(chunk_size, hidden, targets))
    batch, length = targets.shape
    losses, ranks = (jnp.moveaxis(piece, 0, 1).reshape(batch, -1)[:, :length] for piece in pieces)
    return losses, ranks


def rank(logits: Float[Array, "... vocabulary"], targets: Int[Array, " ..."]) -> Int[Array, " ..."]:
    """How many codes score above the target; of equal scores the lower id is above, as in `jax.lax.top_k`."""
    score = jnp.take_along_axis(logits, targets[..., None], axis=-1)
    lower = jnp.arange(logits.shape[-1]) < targets[..., None]
    return ((logits > score) | ((logits == score) & lower)).sum(-1, dtype=jnp.int32)


def _chunk(head_apply, head_params, hidden, table, targets, weights):
    logits = head_apply(head_params, hidden, table)
    ranks = rank(jax.lax.stop_gradient(logits), targets)
    hits = ((ranks[..., None] < jnp.array([1, 5, 10])) & (weights > 0)[..., None]).sum((0, 1), dtype=jnp.int32)
    return jnp.sum(_cross_entropy(logits, targets) * weights), hits


def _cross_entropy(logits: Array, targets: Array) -> Array:
    score = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - score


def _split(chunk_size: int, *arrays: Array) -> tuple[Array, ...]:
    """[B, M, ...] as [chunks, B, m, ...]: along the row, so that rows stay on their devices."""
    batch, length = arrays[0].shape[:2]
    chunks = max(1, min(length, -(-batch * length // chunk_size)))
    each = -(-length // chunks)
    chunks = -(-length // each)

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, 0), (0, chunks * each - length)] + [(0, 0)] * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(batch, chunks, each, *x.shape[2:]), 1, 0)

    return tuple(split(x) for x in arrays)
