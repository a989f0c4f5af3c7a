"""CEHR-BERT: a BERT whose inputs also carry time, age, the order of visits and values (Pang et al. 2021).

As in the class of cumc-dbmi/cehrbert: concept, time, age and visit order are joined and projected, the visit segment is
added, and a post-LN encoder follows; there is no LayerNorm on the embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.layers import Dense, Table, activate, constrain_batch, sinusoids
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import settings, transformer

FIELDS = ("tokens", "segment_ids", "visit_ids", "ages", "days", "values")
"""The fields of a batch that the model reads."""
SEES_FUTURE = True
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

LARGEST_VALUE = 10.0


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a CEHR-BERT. mlp_dim None means 4 x hidden_dim; scan and unroll: see transformer.Encoder.

    time_dim: width of the embeddings of time, age and visit order. num_segments: rows of the visit segments; visits
    take rows 1 and 2 in turn. time_scale: days; age_scale: years. values: standardised (`standardise_values`); beyond
    10 they are cut.
    """

    vocab_size: int
    num_layers: int = 12
    num_heads: int = 8
    hidden_dim: int = 128
    mlp_dim: int | None = 2048
    time_dim: int = 16
    num_segments: int = 3
    max_positions: int = 512
    time_scale: float = 1000.0
    age_scale: float = 100.0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-12
    gelu: str = "erf"
    remat: str = "none"
    scan: bool = True
    unroll: bool | None = None
    attention_implementation: str = "auto"


_CHOICES = {
    **transformer.CHOICES,
}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, _CHOICES, model="cehr_bert")


def check(config: Config, context_length: int) -> None:
    """Any context will do: positions are the order of visits, and later visits share the last one."""


class Model(nn.Module):
    """Hidden states of a packed batch."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L]. Needs the rng 'dropout' unless deterministic.

        Returns `hidden` [B, L, hidden_dim] in the residual dtype and `table`, the code embeddings [V, hidden_dim] in
        float32, for tied heads. Hidden states at padding are finite and mean nothing.
        """
        config = self.config
        key = None if deterministic else self.make_rng("dropout")
        x, table = Embeddings(config, self.policy, name="embeddings")(batch)
        encoder = transformer.encoder(
            config,
            self.policy,
            norm_first=False,
            kernel_init=nn.initializers.normal(0.02),
            out_init=nn.initializers.normal(0.02),
        )
        return {"hidden": constrain_batch(encoder(x, batch["segment_ids"], key)), "table": table}


class Embeddings(nn.Module):
    """gelu(Dense([code with value, time, age, visit order])) + visit segment."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "batch length d"], Float[Array, "vocabulary d"]]:
        config, width = self.config, self.config.hidden_dim
        start = nn.initializers.normal(0.02)
        code = Table(config.vocab_size, width, name="code")()
        x = code[batch["tokens"]]
        values = batch["values"]
        known = jnp.isfinite(values)[..., None]
        shown = jnp.clip(jnp.nan_to_num(values), -LARGEST_VALUE, LARGEST_VALUE)[..., None]
        merged = Dense(width, self.policy, start, name="merge_value")(jnp.concatenate([x, shown], axis=-1))
        x = jnp.where(known, activate(merged, "tanh"), x)
        # Ages count in whole years there.
        ages = jnp.floor(jnp.nan_to_num(batch["ages"]))
        time = Waves(config.time_dim, config.time_scale, name="time")(batch["days"].astype(jnp.float32))
        age = Waves(config.time_dim, config.age_scale, name="age")(ages)
        order = jnp.clip(batch["visit_ids"], 0, config.max_positions - 1)
        place = jnp.asarray(sinusoids(config.max_positions, config.time_dim))[order]
        x = Dense(width, self.policy, start, name="project")(jnp.concatenate([x, time, age, place], axis=-1))
        segment = jnp.minimum(jnp.clip(batch["visit_ids"], 0) % 2 + 1, config.num_segments - 1)
        x = activate(x, "tanh") + Table(config.num_segments, width, name="segment")()[segment]
        return constrain_batch(x.astype(self.policy.residual)), code


class Waves(nn.Module):
    """sin(x / scale * w + phi) with learned w and phi."""

    width: int
    scale: float

    @nn.compact
    def __call__(self, x: Float[Array, "batch length"]) -> Float[Array, "batch length e"]:
        w = self.param("w", nn.initializers.normal(1.0), (self.width,), jnp.float32)
        phi = self.param("phi", nn.initializers.normal(1.0), (self.width,), jnp.float32)
        return jnp.sin((x / self.scale)[..., None] * w + phi)
