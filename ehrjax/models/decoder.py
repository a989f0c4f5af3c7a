"""A causal decoder: sinusoidal or rotary positions, over places, ages or times; Llama is one of its cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ehrjax.core.errors import InputError
from ehrjax.core.layers import Table, constrain_batch, dropout, norm, sinusoids
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import memory, settings, transformer

FIELDS = ("tokens", "positions", "segment_ids", "ages", "times")
"""The fields of a batch that the model reads."""
SEES_FUTURE = False
"""Whether a position's hidden state depends on later tokens of its segment."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

MINUTES_PER_DAY = 1440.0
DAYS_PER_YEAR = 365.25


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a decoder. mlp_dim None means 4 x hidden_dim; scan and unroll: see transformer.Encoder.

    positions: 'sinusoidal' (added to the tokens), 'rotary' (queries and keys are turned) or 'none'. over: what they
    count: 'places' in the window, 'ages' (unknown ages: the time since the window's start), or 'times' since the
    window's start, these two in units of unit_days days; no sinusoid turns faster than one radian a unit. window: how
    many earlier tokens a token sees (None: all). norm: 'layer' or 'rms'. gated: an MLP with a gate (SwiGLU with
    gelu='silu'). final_norm: a norm behind the last block. kv_heads, head_dim: see transformer.SelfAttention. init:
    'xavier' (uniform, the token pipeline's) or 'normal' (0.02). bag: add a Bag to what the last block gives.
    """

    vocab_size: int
    num_layers: int = 4
    num_heads: int = 4
    hidden_dim: int = 512
    mlp_dim: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    max_positions: int = 2048
    positions: str = "sinusoidal"
    over: str = "places"
    unit_days: float = 1.0
    rotary_base: float = 10_000.0
    window: int | None = None
    norm: str = "layer"
    final_norm: bool = False
    gated: bool = False
    use_bias: bool = True
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5
    gelu: str = "erf"
    init: str = "xavier"
    bag: bool = False
    remat: str = "none"
    scan: bool = True
    unroll: bool | None = None
    attention_implementation: str = "auto"


_CHOICES = {
    "positions": ("sinusoidal", "rotary", "none"),
    "over": ("places", "ages", "times"),
    "norm": ("layer", "rms"),
    "init": ("xavier", "normal"),
    **transformer.CHOICES,
}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    config = settings.parse(Config, values, _CHOICES, model="decoder")
    if not config.unit_days > 0:
        raise InputError(f"model.unit_days is {config.unit_days}; it must be more than 0 days.")
    return config


def check(config: Config, context_length: int) -> None:
    """Raises InputError if a segment of `context_length` tokens would have positions beyond the table."""
    if config.positions == "sinusoidal" and config.over == "places":
        settings.check_positions(config.max_positions, context_length)


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

        Returns `hidden` [B, L, hidden_dim] in the residual dtype and `table`, the code embeddings [V, hidden_dim] in
        float32, for tied heads. Hidden states at padding are finite and mean nothing.
        """
        config = self.config
        key = None if deterministic else self.make_rng("dropout")
        start = nn.initializers.xavier_uniform() if config.init == "xavier" else nn.initializers.normal(0.02)
        places = self._places(batch)
        x, table = Embeddings(config, name="embeddings")(batch, places)
        x = constrain_batch(dropout(x, config.dropout, key).astype(self.policy.residual))
        encoder = transformer.encoder(
            config,
            self.policy,
            causal=True,
            window=config.window,
            norm=config.norm,
            gated=config.gated,
            use_bias=config.use_bias,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            rotary=config.rotary_base if config.positions == "rotary" else 0.0,
            kernel_init=start,
            out_init=start,
        )
        x = encoder(x, batch["segment_ids"], key, places)
        if config.final_norm:
            x = norm(config.norm, config.layer_norm_epsilon, self.policy, use_bias=config.use_bias, name="final_norm")(
                x
            )
        if config.bag:
            # Behind the keys of the layers.
            own = None if key is None else jax.random.fold_in(key, config.num_layers)
            x = x + Bag(config, self.policy, name="bag")(batch["tokens"], batch["segment_ids"], own)
        return {"hidden": constrain_batch(x), "table": table}

    def _places(self, batch: Mapping[str, Array]) -> Array:
        """What positions count, [B, L] float32."""
        if self.config.over == "places":
            return batch["positions"].astype(jnp.float32)
        days = batch["times"].astype(jnp.float32) / MINUTES_PER_DAY
        if self.config.over == "ages":
            days = jnp.where(jnp.isnan(batch["ages"]), days, batch["ages"] * DAYS_PER_YEAR)
        return days / self.config.unit_days


class Bag(nn.Module):
    """The sum of a vector for each token up to now: what is on record, however much there is and whenever it was.

    An additive term beside attention, which averages: what logistic regression on bags of codes can express. Where data
    are few that is most of what can be learnt.
    """

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch length"], segment_ids: Int[Array, "batch length"], dropout_key: Array | None
    ) -> Float[Array, "batch length d"]:
        """The sum begins anew with each segment. Dropout takes whole tokens, for all places that see them."""
        given = Table(self.config.vocab_size, self.config.hidden_dim, name="code")()[tokens]
        given = given * dropout(jnp.ones((*tokens.shape, 1), given.dtype), self.config.dropout, dropout_key)
        return memory.running_sum(self, given, segment_ids).astype(self.policy.residual)


class Embeddings(nn.Module):
    """Code, + sinusoids where positions are these."""

    config: Config

    @nn.compact
    def __call__(
        self, batch: Mapping[str, Array], places: Float[Array, "batch length"]
    ) -> tuple[Float[Array, "batch length d"], Float[Array, "vocabulary d"]]:
        config = self.config
        code = Table(config.vocab_size, config.hidden_dim, xavier=config.init == "xavier", name="code")()
        x = code[batch["tokens"]]
        return x + self._waves(batch, places) if config.positions == "sinusoidal" else x, code

    def _waves(self, batch: Mapping[str, Array], places: Array) -> Array:
        """Sinusoids of the places, [B, L, D] float32."""
        config = self.config
        if config.over == "places":
            return jnp.asarray(sinusoids(config.max_positions, config.hidden_dim))[batch["positions"]]
        width = config.hidden_dim
        rates = 10_000.0 ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
        angles = places[..., None] * rates
        waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return waves.reshape(*places.shape, -1)[..., :width]
