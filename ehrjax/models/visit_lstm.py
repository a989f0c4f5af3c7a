"""An LSTM over visits: each visit's codes become one vector, and a recurrence runs from visit to visit.

Visit encoders: mean, sum or max of the code vectors; attention (Dense(E/2), tanh, Dense(1), softmax over the visit's
codes); or an LSTM over the visit's codes, its last state. Two time features stand beside each visit: the logarithms of
the days since the visit before and since the window's first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ehrjax.core import visits
from ehrjax.core.layers import Dense, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import settings
from ehrjax.models.lstm import Embeddings, Recurrence

FIELDS = ("tokens", "segment_ids", "visit_ids", "times")
"""The fields of a batch that the model reads."""
vocab_size_key = "vocab_size"
"""The field of Config that the size of the vocabulary goes into."""

ENCODERS = ("mean", "sum", "max", "attention", "lstm")
_MINUTES_PER_DAY = 1440.0


@dataclasses.dataclass(frozen=True)
class Config:
    """What defines a visit LSTM. visit_dim: a Dense behind the encoder (None: the encoder's own width).

    time_features: whether the two stand beside each visit. bidirectional: a second recurrence from the last visit.
    timescale, code_std: as the LSTM's, the first of the recurrence over visits.
    """

    vocab_size: int
    embedding_dim: int = 128
    visit_dim: int | None = 256
    hidden_dim: int = 256
    num_layers: int = 2
    encoder: str = "mean"
    time_features: bool = True
    dropout: float = 0.3
    bidirectional: bool = False
    timescale: int = 0
    code_std: float = 1.0


_CHOICES = {"encoder": ENCODERS}


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, _CHOICES, model="visit_lstm")


def sees_future(config: Config) -> bool | str:
    """A token's hidden state is its visit's, which depends on the visit's later tokens, or on later visits too."""
    return True if config.bidirectional else "visit"


def check(config: Config, context_length: int) -> None:
    """Any context will do."""


class Model(nn.Module):
    """Hidden states of a packed batch: each token has that of its visit."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, each [B, L]. Needs the rng 'dropout' unless deterministic.

        Visits of different segments never mix, and the recurrence begins anew with each segment.

        Returns `hidden` [B, L, hidden_dim (x 2 if bidirectional)] in the residual dtype and `table`, the code
        embeddings [V, embedding_dim] in float32.
        """
        config = self.config
        key = None if deterministic else self.make_rng("dropout")
        keys = [None] * (config.num_layers + 1) if key is None else jax.random.split(key, config.num_layers + 1)
        codes, table = Embeddings(config, name="embeddings")(batch)
        codes = constrain_batch(codes.astype(self.policy.residual))
        number, starts, segments = jax.vmap(visits.of_row)(batch["segment_ids"], batch["visit_ids"])
        x = VisitEncoder(config.encoder, self.policy, name="visits")(codes, number, starts)
        if config.visit_dim is not None:
            x = Dense(config.visit_dim, self.policy, name="visit")(x)
        x = dropout(x, config.dropout, keys[-1])
        begins, ends = jax.vmap(visits.edges)(segments)
        # A row has a visit for every few tokens; the recurrence leaves out the places behind its last one.
        used = jnp.arange(number.shape[1]) <= number[:, -1].max()
        if config.time_features:
            x = jnp.concatenate([x, _time_features(batch["times"], number, begins).astype(x.dtype)], axis=-1)
        for layer in range(config.num_layers):
            if layer:
                x = dropout(x, config.dropout, keys[layer])
            recurrence = partial(Recurrence, config.hidden_dim, self.policy, config.timescale)
            outputs = [recurrence(name=f"lstm_{layer}")(x, begins, used)]
            if config.bidirectional:
                back = recurrence(reverse=True, name=f"lstm_{layer}_reverse")
                outputs.append(back(x, ends, used))
            x = jnp.concatenate(outputs, axis=-1)
        hidden = jnp.take_along_axis(x, number[..., None], axis=1)
        return {"hidden": constrain_batch(hidden), "table": table}


class VisitEncoder(nn.Module):
    """Code vectors [B, L, E] to visit vectors [B, L, E]: entry n of a row is its n-th visit, the rest mean nothing."""

    kind: str
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self,
        codes: Float[Array, "batch length e"],
        number: Int[Array, "batch length"],
        starts: Bool[Array, "batch length"],
    ) -> Float[Array, "batch length e"]:
        length, width = codes.shape[1:]
        total = jax.vmap(visits.total)
        if self.kind == "lstm":
            states = Recurrence(width, self.policy, name="codes")(codes, starts)
            last = jnp.concatenate([starts[:, 1:], jnp.ones_like(starts[:, :1])], axis=1)
            return total(jnp.where(last[..., None], states, 0), number)
        if self.kind == "max":
            best = jax.vmap(lambda x, n: jax.ops.segment_max(x, n, num_segments=length))(codes, number)
            return jnp.where(jnp.isfinite(best), best, 0)  # visits that there are not
        if self.kind == "sum":
            return total(codes, number)
        if self.kind == "mean":
            weights = jnp.ones(codes.shape[:2], jnp.float32)
        else:
            inner = jnp.tanh(Dense(max(width // 2, 1), self.policy, name="inner")(codes))
            scores = Dense(1, self.policy, name="score")(inner)[..., 0].astype(jnp.float32)
            top = jax.vmap(lambda x, n: jax.ops.segment_max(x, n, num_segments=length)[n])(scores, number)
            weights = jnp.exp(scores - top)
        share = weights / jnp.take_along_axis(jnp.maximum(total(weights, number), 1e-30), number, axis=1)
        return total(codes * share[..., None].astype(codes.dtype), number)


def _time_features(times: Array, number: Array, begins: Array) -> Float[Array, "batch length 2"]:
    """log(1 + days) since the visit before (0 for the first of a segment) and since the segment's first visit."""
    days = jnp.maximum(jax.vmap(visits.begins)(times, number), 0).astype(jnp.float32) / _MINUTES_PER_DAY
    before = jnp.concatenate([jnp.zeros_like(days[:, :1]), days[:, :-1]], axis=1)
    gap = jnp.where(begins, 0.0, jnp.maximum(days - before, 0.0))
    return jnp.stack([jnp.log1p(gap), jnp.log1p(days)], axis=-1)
