"""From the hidden states of packed windows to one vector a window."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.precision import contract

POOLS = ("cls", "mean", "max", "last")


def pool(
    hidden: Float[Array, "batch length d"], batch: Mapping[str, Array], how: str
) -> Float[Array, "batch segments d"]:
    """One vector a window, float32; zeros where there is no window. By 'last' one a label, where windows have labels.

    hidden: of a packed batch. batch: `segment_ids` [B, L] and `anchors` [B, S], the last token of each window; perhaps
    `label_anchors` [B, T], the last token that each label sees.
    how: 'cls' (the window's first token, whatever it is), 'last', 'mean' or 'max' over the window's tokens.
    """
    anchors, segment_ids = batch["anchors"], batch["segment_ids"]
    if how == "last":
        anchors = batch.get("label_anchors", anchors)
    hidden = hidden.astype(jnp.float32)
    there = (anchors >= 0)[..., None]
    numbers = jnp.arange(1, anchors.shape[1] + 1)
    if how == "last":
        return jnp.where(there, jnp.take_along_axis(hidden, jnp.maximum(anchors, 0)[..., None], axis=1), 0.0)
    member = segment_ids[:, None, :] == numbers[None, :, None]  # [B, S, L]
    if how == "cls":
        first = jnp.argmax(member, axis=-1)
        return jnp.where(there, jnp.take_along_axis(hidden, first[..., None], axis=1), 0.0)
    if how == "mean":
        total = contract("bsl,bld->bsd", member.astype(jnp.float32), hidden, jnp.float32)
        return total / jnp.maximum(member.sum(-1, keepdims=True), 1)
    best = jax.vmap(lambda x, s: jax.ops.segment_max(x, s, num_segments=anchors.shape[1] + 1))(hidden, segment_ids)
    return jnp.where(there, best[:, 1:], 0.0)
