"""Randomness as a pure function of (seed, name, step), and masks that depend on (key, global index) only."""

from __future__ import annotations

import math
import zlib
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt32

Words = tuple[Array, Array]
"""Two uint32 arrays, scalars at first: what `bits` needs of a jax.random key."""


def key_for(seed: int | Array, name: str, step: int | Array = 0) -> Array:
    """The key of the stream `name` at `step`: `fold_in(fold_in(key, crc32(name)), step)`.

    seed: an int or a jax.random key. The same three values give the same key in every process, on every
    platform and Python version (Python's own `hash` of a string would not).
    """
    key = jax.random.key(seed) if isinstance(seed, int) else seed
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


def words(key: Array) -> Words:
    """Two independent uint32 words drawn from a jax.random key of any implementation."""
    drawn = jax.random.bits(key, (2,), jnp.uint32)
    return drawn[0], drawn[1]


# Compiled where they are called by themselves, and inlined where they are traced: a hash is a dozen small operations.
@partial(jax.jit, static_argnames="shape", inline=True)
def bits(words: Words, shape: tuple[int, ...]) -> UInt32[Array, " ..."]:
    """Random uint32 of `shape`; element i depends only on the two words and on its row-major index i.

    Words that are arrays are broadcast against `shape`, whose index then counts inside each stream.

    A counter-based hash instead of threefry: two multiplies an element, so that XLA fuses it into whatever
    consumes it and recomputes it in the backward pass instead of storing it. Because the counter is the
    *global* index, the values are the same on any number of devices. The mixer is Chris Wellons' `lowbias32`
    (public domain, github.com/skeeto/hash-prospector) with the second word added between its rounds, so that
    two keys are not shifted copies of one another. The words must themselves be random, as those of `words`
    and `split` are. Meant for dropout and masking, not for cryptography.
    """
    first, second = words
    inner = len(shape)
    while inner and math.prod(shape[-inner:]) > 2**32:
        inner -= 1
    outer = len(shape) - inner
    if outer:  # A counter of 32 bits would repeat, so the leading axes get words of their own.
        first, second = split(words, shape[:outer] + (1,) * inner)
    return _mix(first, second, _index((1,) * outer + shape[outer:]))


@partial(jax.jit, static_argnames="shape", inline=True)
def split(words: Words, shape: tuple[int, ...]) -> Words:
    """Two words for each index of `shape`: independent streams, one an element."""
    first, second = words
    index = _index(shape)
    mixed = _mix(first, second, index)
    return mixed, _mix(second, ~first, index)


@partial(jax.jit, inline=True)
def fold_in(words: Words, number: Array) -> Words:
    """The streams of `number` below each stream: as `jax.random.fold_in`, elementwise and cheap."""
    first, second = words
    mixed = _mix(first, second, number.astype(jnp.uint32))
    return mixed, _mix(second, ~first, number.astype(jnp.uint32))


def keep_mask(words: Words, shape: tuple[int, ...], rate: float) -> Bool[Array, " ..."]:
    """True with probability 1 - rate (to within 2**-32), elementwise; False is to be dropped."""
    return bits(words, shape) >= jnp.uint32(min(round(rate * 2**32), 2**32 - 1))


def _index(shape: tuple[int, ...]) -> UInt32[Array, " ..."]:
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return index


def _mix(first: Array, second: Array, index: Array) -> Array:
    x = index + first
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = x + second
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
