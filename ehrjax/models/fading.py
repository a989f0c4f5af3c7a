"""Fading memories: sums of the codes' vectors that fade at several speeds, and a network on them.

A position sees, for each half-life, the sum of the vectors of all tokens up to now, each halved for every half-life
that has passed since: what logistic regression on counts in windows of time sees, with learnt vectors, for every
position at once. Unlike attention, which averages, sums tell how much there is; unlike the gates of an LSTM, how fast
they fade is fixed and in days.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.core.layers import Dense, LayerNorm, Table, activate, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import memory, settings
from ehrjax.models.bag import NEAR, between

FIELDS = ("tokens", "segment_ids", "times", "ages")
"""The fields of a batch that the model reads."""
SEES_FUTURE = False
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

_MINUTES_PER_DAY = 1440.0


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines one. half_lives_days: rising; beside these stands a sum that does not fade. num_layers: residual
    MLPs, twice as wide inside, on the linear map of the sums. age_knots: as the bag's.
    """

    vocab_size: int
    embedding_dim: int = 128
    hidden_dim: int = 256
    num_layers: int = 2
    half_lives_days: tuple[float, ...] = (7.0, 30.0, 180.0, 730.0)
    age_knots: tuple[float, ...] = tuple(float(year) for year in range(0, 101, 10))
    dropout: float = 0.1
    gelu: str = "tanh"


_CHOICES = {"gelu": ("tanh", "erf")}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    config = settings.parse(Config, values, _CHOICES, model="fading")
    for name, numbers in (("half_lives_days", (0.0, *config.half_lives_days)), ("age_knots", config.age_knots)):
        if any(b <= a for a, b in zip(numbers, numbers[1:])):
            raise InputError(f"model.{name} is {getattr(config, name)}; it must be numbers that rise.")
    return config


def check(config: Config, context_length: int) -> None:
    """Any context will do."""


def most_places(config: Config) -> int | None:
    """How many places a window can have when it is continued token by token; None: any number."""
    return None


class Model(nn.Module):
    """Hidden states of a packed batch."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L]. Needs the rng 'dropout' unless deterministic.

        Returns `hidden` [B, L, hidden_dim] in the residual dtype and `table`, the code embeddings [V, embedding_dim] in
        float32, for tied heads.
        """
        config = self.config
        key = None if deterministic else self.make_rng("dropout")
        keys = [None] * (config.num_layers + 1) if key is None else jax.random.split(key, config.num_layers + 1)
        codes, table = Embeddings(config, name="embeddings")(batch)
        # Whole tokens, for all places that see them.
        codes = codes * dropout(jnp.ones((*codes.shape[:2], 1), codes.dtype), config.dropout, keys[-1])
        sums = Sums(config, name="sums")(codes, batch)
        known = jnp.concatenate([jnp.arcsinh(sums), between(batch["ages"], config.age_knots) / NEAR], axis=-1)
        x = Dense(config.hidden_dim, self.policy, name="entry")(constrain_batch(known.astype(self.policy.residual)))
        for number in range(config.num_layers):
            h = LayerNorm(policy=self.policy, name=f"norm_{number}")(x)
            h = activate(Dense(2 * config.hidden_dim, self.policy, name=f"inner_{number}")(h), config.gelu)
            h = Dense(config.hidden_dim, self.policy, name=f"outer_{number}")(h)
            x = x + dropout(h, config.dropout, keys[number])
        return {"hidden": constrain_batch(x), "table": table}


class Embeddings(nn.Module):
    """Codes."""

    config: Config

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "batch length e"], Float[Array, "vocabulary e"]]:
        table = Table(self.config.vocab_size, self.config.embedding_dim, std=0.1, name="code")()
        return table[batch["tokens"]], table


class Sums(nn.Module):
    """The sums of each half-life, one after another, [B, L, (half-lives + 1) x E] float32."""

    config: Config

    def __call__(self, codes: Float[Array, "batch length e"], batch: Mapping[str, Array]) -> Array:
        """Sums begin anew with each segment."""
        rates = [0.0, *(math.log(2) / days for days in self.config.half_lives_days)]
        days = batch["times"].astype(jnp.float32) / _MINUTES_PER_DAY
        return memory.fading_sum(self, codes, jnp.asarray(rates, jnp.float32), days, batch["segment_ids"])
