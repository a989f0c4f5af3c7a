"""GPT-2: a causal pre-LN transformer with learned positions (Radford et al. 2019)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float, Int

from ehrjax.core.layers import LayerNorm, Table, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import settings, transformer

FIELDS = ("tokens", "positions", "segment_ids")
"""The fields of a batch that the model reads."""
SEES_FUTURE = False
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a GPT-2. mlp_dim None means 4 x hidden_dim; use_bias: of Dense layers and norms (nanoGPT's `bias`).

    gelu: 'tanh' is HuggingFace's gelu_new, 'erf' nanoGPT's. scan and unroll: see transformer.Encoder.
    """

    vocab_size: int
    num_layers: int = 12
    num_heads: int = 12
    hidden_dim: int = 768
    mlp_dim: int | None = None
    max_positions: int = 1024
    use_bias: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5
    gelu: str = "tanh"
    remat: str = "none"
    scan: bool = True
    unroll: bool | None = None
    attention_implementation: str = "auto"


SIZES: dict[str, dict[str, int]] = {
    "nano": dict(num_layers=3, num_heads=3, hidden_dim=48),
    "micro": dict(num_layers=4, num_heads=4, hidden_dim=128),
    "mini": dict(num_layers=6, num_heads=6, hidden_dim=192),
    "small": dict(num_layers=12, num_heads=12, hidden_dim=768),
    "medium": dict(num_layers=24, num_heads=16, hidden_dim=1024),
    "large": dict(num_layers=36, num_heads=20, hidden_dim=1280),
    "xl": dict(num_layers=48, num_heads=25, hidden_dim=1600),
}
"""The named sizes: minGPT's three small ones, GPT-2's four."""

_CHOICES = {
    **transformer.CHOICES,
}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, _CHOICES, model="gpt2")


def check(config: Config, context_length: int) -> None:
    """Raises InputError if a segment of `context_length` tokens would have positions beyond the table."""
    settings.check_positions(config.max_positions, context_length)


def most_places(config: Config) -> int | None:
    """How many places a window can have when it is continued token by token; None: any number."""
    return config.max_positions


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
        x, table = Embeddings(config, name="embeddings")(batch)
        x = constrain_batch(dropout(x, config.dropout, key).astype(self.policy.residual))
        encoder = transformer.encoder(
            config,
            self.policy,
            causal=True,
            use_bias=config.use_bias,
            kernel_init=nn.initializers.normal(0.02),
            # So that the residual stream does not grow with the number of layers (section 2.3 of the paper).
            out_init=nn.initializers.normal(0.02 / math.sqrt(2 * config.num_layers)),
        )
        # The dropout of the embeddings takes the key as it is, the layers fold their number in.
        x = encoder(x, batch["segment_ids"], key)
        x = LayerNorm(config.layer_norm_epsilon, self.policy, config.use_bias, name="final_norm")(x)
        return {"hidden": constrain_batch(x), "table": table}


class Embeddings(nn.Module):
    """Code + position."""

    config: Config

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Int[Array, "batch length"]]
    ) -> tuple[Float[Array, "batch length d"], Float[Array, "vocabulary d"]]:
        config = self.config
        code = Table(config.vocab_size, config.hidden_dim, name="code")()
        position = Table(config.max_positions, config.hidden_dim, std=0.01, name="position")()
        return code[batch["tokens"]] + position[batch["positions"]], code
