"""BEHRT: a BERT over codes, ages, visits and positions (Li et al., Scientific Reports 2020), pre-LN."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ehrjax.core.layers import Dense, LayerNorm, Table, constrain_batch, dropout, sinusoids
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import settings, transformer

FIELDS = ("tokens", "positions", "segment_ids", "visit_ids", "ages")
"""The fields of a batch that the model reads."""
SEES_FUTURE = True
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

PAD = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a BEHRT. mlp_dim None means 4 x hidden_dim; scan and unroll: see transformer.Encoder."""

    vocab_size: int
    num_layers: int = 4
    num_heads: int = 8
    hidden_dim: int = 256
    embedding_dim: int = 128
    mlp_dim: int | None = None
    max_positions: int = 512
    max_visits: int = 512
    age_bin_years: int = 5
    max_age: int = 100
    positions: str = "learned"
    visit_segments: bool = False
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5
    gelu: str = "erf"
    remat: str = "none"
    scan: bool = True
    unroll: bool | None = None
    attention_implementation: str = "auto"


SIZES: dict[str, dict[str, int]] = {
    "small": dict(embedding_dim=64, hidden_dim=128, num_layers=2, num_heads=4, max_positions=50),
    "medium": dict(embedding_dim=128, hidden_dim=256, num_layers=4, num_heads=8, max_positions=100),
    "large": dict(embedding_dim=256, hidden_dim=512, num_layers=6, num_heads=8, max_positions=200),
}
"""The named sizes; each value can be overridden (real patients have far more than 200 events)."""

_CHOICES = {
    "positions": ("learned", "sinusoidal"),
    **transformer.CHOICES,
}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, _CHOICES, model="behrt")


def check(config: Config, context_length: int) -> None:
    """Raises InputError if a segment of `context_length` tokens would have positions beyond the table."""
    settings.check_positions(config.max_positions, context_length)


class Model(nn.Module):
    """Hidden states of a packed batch."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L]. Needs the rng 'dropout' unless deterministic.

        Returns `hidden` [B, L, hidden_dim] in the residual dtype and `table`, the code embeddings [V,
        embedding_dim] in float32 with a zero [PAD] row, for tied heads. Hidden states at padding are finite
        and mean nothing.
        """
        config = self.config
        key = None if deterministic else self.make_rng("dropout")
        x, table = Embeddings(config, self.policy, name="embeddings")(batch, key)
        encoder = transformer.encoder(config, self.policy)
        x = encoder(x, batch["segment_ids"], key)
        x = LayerNorm(config.layer_norm_epsilon, self.policy, name="final_norm")(x)
        return {"hidden": constrain_batch(x), "table": table}


class Embeddings(nn.Module):
    """Code + age + visit + position, summed; then LayerNorm, dropout, and a Dense where the widths differ."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Int[Array, "batch length"]], key: Array | None
    ) -> tuple[Float[Array, "batch length d"], Float[Array, "vocabulary e"]]:
        config, width = self.config, self.config.embedding_dim
        tokens = batch["tokens"]
        code = Table(config.vocab_size, width, name="code")()
        # Masked where it is used, so that the row of [PAD] is zero and gets no gradient whatever is stored in
        # it.
        code = code * (jnp.arange(config.vocab_size) != PAD)[:, None]
        ages = age_bins(batch["ages"], config)
        visits = jnp.clip(batch["visit_ids"], 0, config.max_visits - 1)
        x = code[tokens]
        x += Table(num_age_bins(config), width, name="age")()[ages]
        x += Table(config.max_visits, width, name="visit")()[visits]
        if config.positions == "learned":
            position = Table(config.max_positions, width, waves=True, name="position")()
        else:
            position = jnp.asarray(sinusoids(config.max_positions, width))
        x += position[batch["positions"]]
        if config.visit_segments:
            x += Table(2, width, name="segment")()[batch["visit_ids"] % 2]
        x = LayerNorm(config.layer_norm_epsilon, self.policy, name="norm")(x)
        x = dropout(x, config.dropout, key)
        if width != config.hidden_dim:
            x = Dense(config.hidden_dim, self.policy, name="project")(x)
        return constrain_batch(x), code


def num_age_bins(config: Config) -> int:
    """Rows of the age table: one a bin up to max_age, and a last one for an unknown age."""
    return config.max_age // config.age_bin_years + 2


def age_bins(ages: Float[Array, " ..."], config: Config) -> Int[Array, " ..."]:
    """The row of each age in years: clipped to 0..max_age; NaN (unknown) has the last row."""
    top = config.max_age // config.age_bin_years
    known = jnp.clip(jnp.floor(jnp.nan_to_num(ages) / config.age_bin_years), 0, top).astype(jnp.int32)
    return jnp.where(jnp.isnan(ages), top + 1, known)
