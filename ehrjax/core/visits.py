"""The visits of a packed row: which one each token belongs to, and what stands in each.

Entry n is the row's n-th visit. A row has as many entries as places; those behind its last visit have segment 0 and
mean nothing. All functions take one row; `jax.vmap` takes them over a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Visits(NamedTuple):
    """number: of each token's visit, 0, 1, ... along the row. starts: the first token of each. segments: of each
    visit."""

    number: Int[Array, " length"]
    starts: Bool[Array, " length"]
    segments: Int[Array, " length"]


def of_row(segment_ids: Int[Array, " length"], visit_ids: Int[Array, " length"]) -> Visits:
    """The visits of a row; those of different segments are different."""
    new = (segment_ids[1:] != segment_ids[:-1]) | (visit_ids[1:] != visit_ids[:-1])
    starts = jnp.concatenate([jnp.ones(1, bool), new])
    number = jnp.cumsum(starts) - 1
    segments = jax.ops.segment_max(segment_ids, number, num_segments=len(number))
    return Visits(number, starts, jnp.maximum(segments, 0))


def last_codes(code: Bool[Array, " length"], number: Int[Array, " length"]) -> Int[Array, " length"]:
    """The place of each visit's last code (-1: none). code: which tokens are codes; a separator behind them is none,
    and has the time of the next visit."""
    length = len(code)
    last = jax.ops.segment_max(jnp.where(code, jnp.arange(length), -1), number, num_segments=length)
    return jnp.maximum(last, -1)


def total(x: Float[Array, "length e"], number: Int[Array, " length"]) -> Float[Array, "length e"]:
    """The sum of x over the tokens of each visit."""
    return jax.ops.segment_sum(x, number, num_segments=len(number))


def edges(segments: Int[Array, " length"]) -> tuple[Bool[Array, " length"], Bool[Array, " length"]]:
    """Which visits are the first, and the last, of their segments."""
    change = segments[1:] != segments[:-1]
    edge = jnp.ones(1, bool)
    return jnp.concatenate([edge, change]), jnp.concatenate([change, edge])


def begins(times: Int[Array, " length"], number: Int[Array, " length"]) -> Int[Array, " length"]:
    """When each visit began: the time of its first token."""
    return jax.ops.segment_min(times, number, num_segments=len(number))
