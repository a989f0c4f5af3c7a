"""Next token and the time to it: for each token of a window the gap before it, and the token given the gap."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.objectives import gaps, next_token, observation
from ehrjax.objectives.cross_entropy import HeadApply

NAME = "next_event"
FIELDS = ("tokens", "segment_ids", "times", "ages", "days", "anchors", "ends")
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = False
"""A model whose positions see later tokens would be given the answer."""
NO_LOGITS = "scores tokens only given the gap before them (objectives/gaps.py)"
"""Why a run of this objective gives no logits."""


@dataclasses.dataclass(frozen=True)
class Config(observation.Config, next_token.Config):
    """next_token's settings, and until when everybody was observed (observation.py).

    A record's last token is followed by nothing, which is known until then: without it a model learns from gaps that
    ended in an event alone, and takes events near the end of observation to be more frequent than they are.
    """


class Objective(next_token.Objective):
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def head(self) -> nn.Module:
        """The head to initialise and apply: `head(hidden [..., D], table, bins [...]) -> logits [..., V]`."""
        config = self.config
        return gaps.TimedHead(self.vocab_size, config.tied, config.use_bias, tuple(config.absent), self.policy)

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """As next_token, and `target_gaps` [B, L - 1]: the bin of the gap before each target (static ones: no gap)."""
        prepared = super().prepare(batch, key, evaluate=evaluate)
        minutes = jnp.maximum(batch["times"][:, 1:] - batch["times"][:, :-1], 0)
        bins = jnp.where(prepared["target_weights"] > 0, gaps.bin_of(minutes), 0)
        return {**prepared, "target_gaps": bins, "silences": observation.silences(self.config, batch)}

    def loss(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum over targets of the cross-entropies of gap and token, their number, next_token's sums and `gap_loss`.

        gap_loss also has, of each record whose end of observation is known, minus the log-likelihood of nothing more.
        """
        own = (self._gap_losses(head_params, outputs, batch) * batch["target_weights"]).sum()
        own = own + self._silent_losses(head_params, outputs, batch).sum()
        total, weight, sums = super().loss(head_apply, head_params, self._given(head_params, outputs, batch), batch)
        return total + own, weight, {**sums, "gap_loss": own}

    def predictions(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """next_token's, of the token given its gap, and `gap_loss` [B, L - 1]."""
        told = super().predictions(head_apply, head_params, self._given(head_params, outputs, batch), batch)
        return {**told, "gap_loss": self._gap_losses(head_params, outputs, batch)}

    def _given(self, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> dict[str, Array]:
        known = gaps.given(head_params, outputs["hidden"][:, :-1], batch["target_gaps"])
        return {**outputs, "hidden": jnp.concatenate([known, outputs["hidden"][:, -1:]], axis=1)}

    def _gap_losses(self, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> Array:
        scores = jax.nn.log_softmax(gaps.gap_scores(head_params, outputs["hidden"][:, :-1]))
        return -jnp.take_along_axis(scores, batch["target_gaps"][..., None], axis=-1)[..., 0]

    def _silent_losses(self, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]) -> Array:
        """[B, S]: minus the log-likelihood of nothing until the end of observation; 0 where that is not known."""
        last = jnp.maximum(batch["anchors"], 0)[..., None]
        scores = gaps.gap_scores(head_params, jnp.take_along_axis(outputs["hidden"], last, axis=1))
        silences = batch["silences"]
        return jnp.where(silences >= 0, -gaps.log_survival(scores, jnp.maximum(silences, 0)), 0.0)
