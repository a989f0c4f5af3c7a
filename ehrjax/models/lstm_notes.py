"""LSTM over tokens, each beside the mean of the vectors of the clinical notes that were readable before it.

The vectors come from a frozen text encoder (`ehrjax.encode notes`); concatenated with a token's embedding they go
through one Dense back to the embedding's width, without an activation, and on into the recurrence of `lstm`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from ehrjax.core.layers import Dense, constrain_batch
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import lstm, settings

FIELDS = (*lstm.FIELDS, "notes", "notes_seen")
"""The fields of a batch that the model reads."""
vocab_size_key = lstm.vocab_size_key
sees_future = lstm.sees_future
check = lstm.check


@dataclasses.dataclass(frozen=True)
class Config(lstm.Config):
    """What defines one: an LSTM's settings, and note_dim, the width of the vectors of notes (0: as the data has)."""

    note_dim: int = 0


def config_from(values: Mapping[str, Any]) -> Config:
    """The Config of a mapping of its fields. Raises InputError, in one sentence, for what cannot be."""
    return settings.parse(Config, values, {}, model="lstm_notes")


class Model(nn.Module):
    """Hidden states of a packed batch."""

    config: Config
    policy: Policy = FP32

    @nn.compact
    def __call__(self, batch: Mapping[str, Array], *, deterministic: bool = True) -> dict[str, Array]:
        """batch: FIELDS, [B, L] each, but `notes` [B, N, note_dim]. Needs the rng 'dropout' unless deterministic.

        Returns what lstm.Model returns.
        """
        key = None if deterministic else self.make_rng("dropout")
        codes, table = lstm.Embeddings(self.config, name="embeddings")(batch)
        seen = jnp.take_along_axis(batch["notes"], batch["notes_seen"][..., None], axis=1)
        x = jnp.concatenate([codes, seen.astype(codes.dtype)], axis=-1).astype(self.policy.residual)
        x = Dense(self.config.embedding_dim, self.policy, name="notes")(constrain_batch(x))
        x = lstm.layers(self.config, self.policy, x, batch["segment_ids"], key)
        return {"hidden": constrain_batch(x), "table": table}
