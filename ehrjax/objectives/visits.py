"""The visits of a row: which one each token belongs to, and where the last code of each stands."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def last_codes(
    code: Bool[Array, " length"], segments: Int[Array, " length"], visits: Int[Array, " length"]
) -> tuple[Int[Array, " length"], Int[Array, " length"]]:
    """The number of each token's visit, 0, 1, ... along the row, and the place of each visit's last code (-1: none).

    code: which tokens are codes; a separator behind them is none, and has the time of the next visit.
    """
    length = len(code)
    new = jnp.concatenate([jnp.ones(1, bool), (segments[1:] != segments[:-1]) | (visits[1:] != visits[:-1])])
    number = jnp.cumsum(new) - 1
    last = jax.ops.segment_max(jnp.where(code, jnp.arange(length), -1), number, num_segments=length)
    return number, jnp.maximum(last, -1)
