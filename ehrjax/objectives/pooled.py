"""What the supervised objectives share: a pooled window, a head on it, dropout from the step's key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.core.layers import Dense, activate
from ehrjax.core.precision import FP32, Policy
from ehrjax.objectives import moments
from ehrjax.objectives.cross_entropy import HeadApply
from ehrjax.objectives.pooling import POOLS, pool

FIELDS = ("segment_ids", "ages", "anchors", "label_anchors", "label_gaps", "labels", "weights")


class PooledHead(nn.Module):
    """Dense(D), GELU, dropout, Dense(outputs); or dropout, Dense(outputs). moments: numbers that stand beside the D."""

    outputs: int
    hidden: bool = True
    dropout: float = 0.1
    policy: Policy = FP32
    moments: int = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch segments d"],
        table: Array | None = None,
        noise: tuple[Array, Array] | None = None,
        moment: Float[Array, "batch segments m"] | None = None,
    ) -> Float[Array, "batch segments k"]:
        """Scores in float32. table: not used; noise: two words a row for the dropout, None without; moment: what is
        known of the prediction times (None: zeros)."""
        width = x.shape[-1]
        if self.moments:
            when = jnp.zeros((*x.shape[:-1], self.moments)) if moment is None else moment
            x = jnp.concatenate([x, when.astype(x.dtype)], axis=-1)
        if self.hidden:
            x = activate(Dense(width, self.policy, name="transform")(x), "erf")
        if noise is not None and self.dropout:
            keep = rng.keep_mask(tuple(word[:, None, None] for word in noise), (1, *x.shape[1:]), self.dropout)
            x = jnp.where(keep, x * (1.0 / (1.0 - self.dropout)), 0.0)
        return Dense(self.outputs, self.policy, name="out")(x).astype(jnp.float32)


def check(pooling: str, dropout: float) -> None:
    """Raises InputError for settings that cannot be."""
    if pooling not in POOLS:
        raise InputError(f"objective.pooling is {pooling!r}; it must be one of {', '.join(POOLS)}.")
    if not 0 <= dropout < 1:
        raise InputError(f"objective.dropout is {dropout}; it must be at least 0 and below 1.")


class Supervised:
    """What the supervised objectives share; each adds `loss` and `predictions`, and says how many outputs it has."""

    def __init__(self, config: Any, *, vocab_size: int, num_specials: int, mask_id: int, policy: Policy = FP32) -> None:
        """config: with pooling, hidden, dropout and prediction_time. The vocabulary is not needed here."""
        self.config, self.policy = config, policy

    @property
    def outputs(self) -> int:
        """Scores a window."""
        return 1

    def head(self) -> nn.Module:
        """The head to initialise and apply: `head(pooled [..., D]) -> scores [..., outputs]`."""
        count = moments.COUNT if self.config.prediction_time else 0
        return PooledHead(self.outputs, self.config.hidden, self.config.dropout, self.policy, count)

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """The batch, for training with `noise_first` and `noise_second`, two random words a row for dropout."""
        if evaluate:
            return dict(batch)
        first, second = rng.split(rng.words(key), (len(batch["anchors"]),))
        return {**batch, "noise_first": first, "noise_second": second}

    def scores(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> Float[Array, "batch segments k"]:
        """The head's scores of each window."""
        pooled = pool(outputs["hidden"], batch, self.config.pooling)
        noise = (batch["noise_first"], batch["noise_second"]) if "noise_first" in batch else None
        when = moments.features(batch) if self.config.prediction_time else None
        return head_apply(head_params, pooled, None, noise, when)


def labels(batch: Mapping[str, Array]) -> Float[Array, "batch segments k"]:
    """The labels, 0 where a window has no weight: there may be anything, even NaN, which would spoil the gradient."""
    return jnp.where(batch["weights"][..., None] > 0, batch["labels"], 0.0)


def weighted(losses: Float[Array, "batch segments"], weights: Float[Array, "batch segments"]) -> tuple[Array, Array]:
    """Sum of losses, and of weights."""
    return (losses * weights).sum(), weights.sum()


def log_sigmoids(scores: Array) -> tuple[Array, Array]:
    """log p and log (1 - p) of p = sigmoid(score)."""
    return jax.nn.log_sigmoid(scores), jax.nn.log_sigmoid(-scores)
