"""BERT: post-LN encoder over tokens, positions and token types (Devlin et al. 2019); RoBERTa and DistilBERT are cases.

What a HuggingFace checkpoint of these families becomes (`ehrjax.hf`), and a baseline of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ehrjax.core.layers import LayerNorm, Table, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import settings, transformer

FIELDS = ("tokens", "positions", "segment_ids", "visit_ids")
"""The fields of a batch that the model reads."""
SEES_FUTURE = True
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a BERT. mlp_dim None means 4 x hidden_dim; scan and unroll: see transformer.Encoder.

    position_offset: the row of the first position (RoBERTa's is 2). num_types: rows of the token-type table, 0 for
    none. types: which row a token has: 'zero' the first, 'visit' its visit's number (Med-BERT), 'alternate' visits in
    turn (BEHRT's segments).
    """

    vocab_size: int
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    mlp_dim: int | None = None
    max_positions: int = 512
    position_offset: int = 0
    num_types: int = 0
    types: str = "zero"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-12
    gelu: str = "erf"
    remat: str = "none"
    scan: bool = True
    unroll: bool | None = None
    attention_implementation: str = "auto"


_CHOICES = {
    "types": ("zero", "visit", "alternate"),
    **transformer.CHOICES,
}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, _CHOICES, model="bert")


def check(config: Config, context_length: int) -> None:
    """Raises InputError if a segment of `context_length` tokens would have positions beyond the table."""
    settings.check_positions(config.max_positions - config.position_offset, context_length)


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
        x, table = Embeddings(config, self.policy, name="embeddings")(batch, key)
        encoder = transformer.encoder(
            config,
            self.policy,
            norm_first=False,
            kernel_init=nn.initializers.normal(0.02),
            out_init=nn.initializers.normal(0.02),
        )
        x = encoder(x, batch["segment_ids"], key)
        return {"hidden": constrain_batch(x), "table": table}


class Embeddings(nn.Module):
    """Code + position + type, summed; then LayerNorm and dropout."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Int[Array, "batch length"]], key: Array | None
    ) -> tuple[Float[Array, "batch length d"], Float[Array, "vocabulary d"]]:
        config, width = self.config, self.config.hidden_dim
        code = Table(config.vocab_size, width, name="code")()
        x = code[batch["tokens"]]
        position = Table(config.max_positions, width, name="position")()
        x += position[batch["positions"] + config.position_offset]
        if config.num_types:
            kinds = {
                "zero": jnp.zeros_like(batch["tokens"]),
                "visit": jnp.clip(batch["visit_ids"], 0, config.num_types - 1),
                "alternate": jnp.clip(batch["visit_ids"], 0) % min(2, config.num_types),
            }
            x += Table(config.num_types, width, name="type")()[kinds[config.types]]
        x = LayerNorm(config.layer_norm_epsilon, self.policy, name="norm")(x)
        return constrain_batch(dropout(x, config.dropout, key)), code
