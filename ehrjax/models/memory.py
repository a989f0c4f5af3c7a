"""What a causal model keeps of the tokens it has seen, so that the next token costs one position (for generation).

Two Flax collections carry it, and a model needs no second definition for either use:

KEPT: where a caller makes it mutable, a pass over whole windows leaves there what the memory is made of: `keys` and
`values` [B, L, kv, K] of each attention, the states [B, L, units] of each recurrence.

MEMORY: where a caller provides it, the model is given one token a row ([R, 1]) and reads the past from there.
 - attention: `prompt_keys`, `prompt_values` [G, kv, P, K], which R // G neighbouring rows share; `own_keys`,
   `own_values` [R, kv, C, K], a ring whose slot `slot` is written now; `prompt_visible` [R, P] and `own_visible` [R, C]
   bool.
 - recurrence: `hidden`, `cell` [R, units]; of a running sum, `sum` [R, D].
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ehrjax.core.precision import contract

KEPT = "kept"
MEMORY = "memory"

_MASKED = -1e30


def attend(
    q: Float[Array, "rows 1 heads k"], k: Float[Array, "rows 1 kv k"], v: Float[Array, "rows 1 kv k"], memory: Mapping
) -> tuple[Float[Array, "rows 1 heads k"], dict[str, Array]]:
    """Attention of one token a row over the prompt that its group shares, the row's own tokens, and itself.

    memory: the entries of MEMORY (see the module); `own_visible` must show slot `slot`, where this token goes.

    Returns the result, and the own keys and values with this token's. The softmax is float32.
    """
    rows, _, heads, width = q.shape
    groups, kv, _, _ = memory["prompt_keys"].shape
    shared, each = heads // kv, rows // groups
    at = (0, 0, memory["slot"], 0)
    keys, values = (
        lax.dynamic_update_slice(memory[name], x.swapaxes(1, 2).astype(memory[name].dtype), at)
        for name, x in (("own_keys", k), ("own_values", v))
    )
    # [rows, kv, shared, K] for the row's own; [groups, kv, each x shared, K] for what the group shares, one matmul.
    own = (q * (1.0 / math.sqrt(width))).reshape(rows, kv, shared, width)
    joint = own.reshape(groups, each, kv, shared, width).swapaxes(1, 2).reshape(groups, kv, each * shared, width)

    def to_rows(x: Array) -> Array:
        return x.reshape(groups, kv, each, shared, -1).swapaxes(1, 2).reshape(rows, kv, shared, -1)

    def to_groups(x: Array) -> Array:
        return x.reshape(groups, each, kv, shared, -1).swapaxes(1, 2).reshape(groups, kv, each * shared, -1)

    visible = memory["prompt_visible"][:, None, None]
    visible = to_groups(jnp.broadcast_to(visible, (rows, kv, shared, visible.shape[-1])))
    scores_p = contract("gank,gapk->ganp", joint, memory["prompt_keys"], q.dtype)
    scores_p = jnp.where(visible, scores_p, _MASKED)
    scores_o = contract("rask,rack->rasc", own, keys, q.dtype)
    scores_o = jnp.where(memory["own_visible"][:, None, None], scores_o, _MASKED)

    top = jnp.maximum(scores_o.max(-1, keepdims=True), to_rows(scores_p.max(-1, keepdims=True)))
    weights_o, weights_p = jnp.exp(scores_o - top), jnp.exp(scores_p - to_groups(top))
    total = weights_o.sum(-1, keepdims=True) + to_rows(weights_p.sum(-1, keepdims=True))
    out = contract("rasc,rack->rask", weights_o, values, q.dtype)
    out = out + to_rows(contract("ganp,gapk->gank", weights_p, memory["prompt_values"], q.dtype))
    out = (out / total).astype(q.dtype).reshape(rows, 1, heads, width)
    return out, {"own_keys": keys, "own_values": values}


def running_sum(
    module: nn.Module, given: Float[Array, "batch length d"], segment_ids: Int[Array, "batch length"]
) -> Float[Array, "batch length d"]:
    """The sum of `given` up to each position, begun anew with each segment; `module` keeps it as `sum` [R, D]."""
    if module.has_variable(MEMORY, "sum"):
        total = given + module.get_variable(MEMORY, "sum")[:, None]
        module.put_variable(MEMORY, "sum", total[:, 0])
        return total
    starts = jnp.ones_like(segment_ids, bool).at[:, 1:].set(segment_ids[:, 1:] != segment_ids[:, :-1])
    total, _ = lax.associative_scan(_joined, (given, starts[..., None]), axis=1)
    if module.is_mutable_collection(KEPT):
        module.sow(KEPT, "sum", total)
    return total


def _joined(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """Sums that begin anew where the second of a pair is True."""
    return jnp.where(b[1], b[0], a[0] + b[0]), a[1] | b[1]
