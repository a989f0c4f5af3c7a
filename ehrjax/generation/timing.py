"""Drawing how long it is until the next event, where the model says it (objectives/gaps.py)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from ehrjax.core import rng
from ehrjax.generation import sampling
from ehrjax.objectives.gaps import EDGES

_NEVER = -1e30


def draw_gap(
    scores: Float[Array, "rows bins"],
    least: Int[Array, " rows"],
    first: UInt32[Array, " rows"],
    second: UInt32[Array, " rows"],
    settings: sampling.Settings,
) -> tuple[Int[Array, " rows"], Int[Array, " rows"]]:
    """One gap a row: its bin, and minutes, evenly within the bin.

    least: gaps must be longer than so many minutes (-1: any will do), the distribution given that: bins below are out,
    and the one that it lies in counts with the share that is left. first, second: words of randomness.
    """
    low, high = jnp.asarray(EDGES[:-1]), jnp.asarray(EDGES[1:])
    start = jnp.maximum(low[None], least[:, None] + 1)
    share = jnp.maximum(high - start, 0).astype(jnp.float32) / (high - low).astype(jnp.float32)
    left = jnp.where(share > 0, jax.nn.log_softmax(scores) + jnp.log(jnp.maximum(share, 1e-30)), _NEVER)
    bins = sampling.draw(left, *rng.fold_in((first, second), jnp.uint32(1)), settings)
    begin = jnp.maximum(low[bins], least + 1)
    width = jnp.maximum(high[bins] - begin, 1)
    place = sampling.uniform(*rng.fold_in((first, second), jnp.uint32(2))) * width.astype(jnp.float32)
    return bins, begin + jnp.minimum(place.astype(jnp.int32), width - 1)
