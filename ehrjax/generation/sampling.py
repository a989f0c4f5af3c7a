"""From scores to the next token: temperature, top-k, top-p, and a draw that depends on its own row alone."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from ehrjax.core import rng
from ehrjax.core.errors import InputError

# Far below any score, yet finite.
_NEVER = -1e30


@dataclass(frozen=True)
class Settings:
    """How a token is drawn.

    Attributes:
      temperature: scores are divided by it; 0 takes the best token (of equal ones the lowest id).
      top_k: only the k best tokens can be drawn; 0: all.
      top_p: only the best tokens whose probabilities add up to p at least (Holtzman et al. 2020); 1: all.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; it must be a number from 0.")
        if self.top_k < 0:
            raise InputError(f"top_k is {self.top_k}; it must be at least 0 (0: all tokens).")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; it must be above 0 and at most 1.")


def scores(logits: Float[Array, "rows v"], settings: Settings) -> Float[Array, "rows v"]:
    """What is drawn from, float32: log-probabilities but for a constant a row; what cannot be drawn is below -1e29.

    With a temperature of 0 they are those of temperature 1: `draw` takes the best.
    """
    logits = logits.astype(jnp.float32) / (settings.temperature or 1.0)
    if 0 < settings.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, settings.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, _NEVER, logits)
    if settings.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        # A token stays if those before it do not reach p yet.
        stays = jnp.cumsum(probabilities, axis=-1) - probabilities < settings.top_p
        least = jnp.min(jnp.where(stays, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, _NEVER, logits)
    return logits


def noise(first: UInt32[Array, " rows"], second: UInt32[Array, " rows"], width: int) -> Float[Array, "rows v"]:
    """Gumbel noise: element (i, j) depends on the two words of row i and on j only."""
    bits = rng.bits((first[:, None], second[:, None]), (1, width))
    return -jnp.log(-jnp.log(_between(bits)))


def draw(
    scores: Float[Array, "rows v"],
    first: UInt32[Array, " rows"],
    second: UInt32[Array, " rows"],
    settings: Settings,
) -> Int[Array, " rows"]:
    """One token a row: the best of score + Gumbel noise (Maddison et al. 2014), which is a fair draw."""
    drawn = scores
    if settings.temperature:
        drawn = drawn + noise(first, second, drawn.shape[-1])
    # Not jnp.argmax, which takes six times as long on a CPU: the first place of the largest.
    place = jnp.where(drawn >= drawn.max(axis=-1, keepdims=True), jnp.arange(drawn.shape[-1]), drawn.shape[-1])
    return place.min(axis=-1).astype(jnp.int32)


def uniform(first: UInt32[Array, " rows"], second: UInt32[Array, " rows"]) -> Float[Array, " rows"]:
    """One number in (0, 1) a row, from the row's two words."""
    return _between(rng.bits((first, second), (1,)))


def _between(bits: UInt32[Array, " ..."]) -> Float[Array, " ..."]:
    """Numbers from 2^-24 to 1 - 2^-24, each of them a float32: neither 0 nor 1, whose logarithms would be infinite."""
    return ((bits >> 9).astype(jnp.float32) + 0.5) * (1.0 / (1 << 23))
