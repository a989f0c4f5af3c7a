"""Next-token prediction: each token of a window from those before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.core.precision import FP32, Policy
from ehrjax.objectives.cross_entropy import HeadApply, chunked_loss, chunked_ranks
from ehrjax.objectives.heads import LinearHead

NAME = "next_token"
FIELDS = ("tokens", "segment_ids")
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = False
"""A model whose positions see later tokens would be given the answer."""


@dataclasses.dataclass(frozen=True)
class Config:
    """tied: the output layer is the code table; use_bias: it has a bias; absent: tokens that are never predicted;
    chunk_size: see cross_entropy.
    """

    tied: bool = True
    use_bias: bool = False
    absent: tuple[int, ...] = ()
    chunk_size: int = 512

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise InputError("objective.chunk_size must be at least 1.")


class Objective:
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def __init__(
        self, config: Config, *, vocab_size: int, num_specials: int, mask_id: int, policy: Policy = FP32
    ) -> None:
        """num_specials, mask_id: not needed here; every token of a window is predicted but its first."""
        self.config = config
        self.vocab_size = vocab_size
        self.policy = policy

    def head(self) -> nn.Module:
        """The head to initialise and apply: `head(hidden [..., D], table) -> logits [..., V]`."""
        return LinearHead(
            self.vocab_size, self.config.tied, self.config.use_bias, tuple(self.config.absent), self.policy
        )

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """Adds, each [B, L - 1]: `target_index` (whose hidden state predicts), `target_tokens` and `target_weights`.

        A position predicts the token behind it if that belongs to the same window; static tokens are shifted as all
        others are.
        """
        segments, tokens = batch["segment_ids"], batch["tokens"]
        follows = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        index = jnp.broadcast_to(jnp.arange(tokens.shape[1] - 1, dtype=jnp.int32), follows.shape)
        return {
            **batch,
            "target_index": index,
            "target_tokens": jnp.where(follows, tokens[:, 1:], 0),
            "target_weights": follows.astype(jnp.float32),
        }

    def loss(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum of the cross-entropy over the targets, their number, and `top1`, `top5`, `top10` to divide by it."""
        table = outputs["table"] if self.config.tied else None
        total, hits = chunked_loss(
            head_apply,
            self.config.chunk_size,
            head_params,
            outputs["hidden"][:, :-1],
            table,
            batch["target_tokens"],
            batch["target_weights"],
        )
        return total, batch["target_weights"].sum(), {"top1": hits[0], "top5": hits[1], "top10": hits[2]}

    def predictions(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Minus the log-likelihood of the true token (`loss`) and its `rank` (0: best), both [B, L - 1]."""
        table = outputs["table"] if self.config.tied else None
        losses, ranks = chunked_ranks(
            head_apply,
            self.config.chunk_size,
            head_params,
            outputs["hidden"][:, :-1],
            table,
            batch["target_tokens"],
        )
        return {"loss": losses, "rank": ranks}
