"""Masked-code modelling: hide some codes of each segment and predict them from the rest (BERT's MLM)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ehrjax.core import rng
from ehrjax.core.errors import InputError
from ehrjax.core.layers import ACTIVATIONS
from ehrjax.core.precision import FP32, Policy
from ehrjax.objectives.cross_entropy import HeadApply, chunked_loss, chunked_ranks
from ehrjax.objectives.heads import CodeHead

NAME = "masked_codes"
FIELDS = ("tokens", "segment_ids")
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = True
"""Legal with a model whose positions see later tokens: what is predicted is hidden from them."""


@dataclasses.dataclass(frozen=True)
class Config:
    """mask_rate of a segment's codes are chosen; mask_share of them become [MASK], random_share another.

    tied, gelu, layer_norm_epsilon, absent: of the head (heads.CodeHead).
    """

    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    tied: bool = False
    chunk_size: int = 512
    max_segments: int = 64
    gelu: str = "erf"
    layer_norm_epsilon: float = 1e-5
    absent: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.mask_rate <= 1:
            raise InputError(f"objective.mask_rate is {self.mask_rate}; it must be above 0 and at most 1.")
        if min(self.mask_share, self.random_share) < 0 or self.mask_share + self.random_share > 1:
            raise InputError("objective.mask_share and random_share must be at least 0 and add up to at most 1.")
        if min(self.chunk_size, self.max_segments) < 1:
            raise InputError("objective.chunk_size and objective.max_segments must be at least 1.")
        if self.gelu not in ACTIVATIONS:
            raise InputError(f"objective.gelu is {self.gelu!r}; it must be one of {', '.join(ACTIVATIONS)}.")


class Objective:
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def __init__(
        self, config: Config, *, vocab_size: int, num_specials: int, mask_id: int, policy: Policy = FP32
    ) -> None:
        """num_specials: ids below it are specials, never chosen and never drawn as a replacement."""
        if not 0 < num_specials < vocab_size or not 0 < mask_id < num_specials:
            raise InputError(
                f"a vocabulary of {vocab_size} with {num_specials} specials and [MASK]={mask_id} has no codes to mask."
            )
        self.config = config
        self.vocab_size = vocab_size
        self.num_specials = num_specials
        self.mask_id = mask_id
        self.policy = policy

    def head(self) -> nn.Module:
        """The head to initialise and apply: `head(hidden [..., D], table) -> logits [..., V]`."""
        return CodeHead(**self._head_settings())

    def _head_settings(self) -> dict[str, Any]:
        config = self.config
        return dict(
            vocab_size=self.vocab_size,
            tied=config.tied,
            gelu=config.gelu,
            layer_norm_epsilon=config.layer_norm_epsilon,
            absent=tuple(config.absent),
            policy=self.policy,
        )

    def max_targets(self, length: int, segments: int) -> int:
        """The most positions that can be chosen in a row of `length` tokens and `segments` segments."""
        return max(1, min(length, int(self.config.mask_rate * length + 0.5 * min(segments, length) + 1e-6)))

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """The batch with `tokens` replaced at the chosen positions, and where and what these were.

        In each segment exactly `round(mask_rate * n)` of its n codes (tokens that are not specials) are
        chosen, with Python's `round` (half to even), whatever else is in the row. For evaluation all of them
        show [MASK]: a code left in its place would give the model the answer.

        Adds, each [B, M] with a static M: `target_index` (in the row, ascending), `target_tokens` and
        `target_weights` (float32: 1, or 0 where there is no target).
        """
        tokens, segment_ids = batch["tokens"], batch["segment_ids"]
        length = tokens.shape[1]
        segments = batch["anchors"].shape[1] if "anchors" in batch else self.config.max_segments
        eligible = (segment_ids > 0) & (tokens >= self.num_specials)
        scores = rng.bits(rng.words(jax.random.fold_in(key, 0)), tokens.shape)
        index = jax.vmap(partial(self._choose, self.max_targets(length, segments)))(eligible, segment_ids, scores)
        present = index < length
        target_index = jnp.where(present, index, 0)
        target_tokens = jnp.where(present, jnp.take_along_axis(tokens, target_index, axis=1), 0)

        draw = rng.bits(rng.words(jax.random.fold_in(key, 1)), index.shape).astype(jnp.float32) / 2.0**32
        code = rng.bits(rng.words(jax.random.fold_in(key, 2)), index.shape)
        code = (code % jnp.uint32(self.vocab_size - self.num_specials)).astype(jnp.int32) + self.num_specials
        mask_share, random_share = (1.0, 0.0) if evaluate else (self.config.mask_share, self.config.random_share)
        shown = jnp.where(draw < mask_share + random_share, code, target_tokens)
        shown = jnp.where(draw < mask_share, self.mask_id, shown).astype(tokens.dtype)
        # index == length where there is no target: out of bounds, so dropped.
        tokens = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop"))(tokens, index, shown)
        return {
            **batch,
            "tokens": tokens,
            "target_index": target_index,
            "target_tokens": target_tokens,
            "target_weights": present.astype(jnp.float32),
        }

    def _choose(
        self,
        most: int,
        eligible: Int[Array, " length"],
        segment_ids: Int[Array, " length"],
        scores: Int[Array, " length"],
    ) -> Int[Array, " most"]:
        """The chosen places of one row, ascending, then `length` for each that is missing."""
        length = eligible.shape[0]
        place = jnp.arange(length, dtype=jnp.int32)
        group = jnp.where(eligible, segment_ids, jnp.iinfo(jnp.int32).max)
        group, _, origin = jax.lax.sort((group, scores, place), num_keys=2)
        first = jnp.searchsorted(group, group, side="left", method="compare_all").astype(jnp.int32)
        after = jnp.searchsorted(group, group, side="right", method="compare_all").astype(jnp.int32)
        # A table made by Python's own round: float32 arithmetic on the device would get some halves wrong.
        counts = jnp.asarray(np.array([round(self.config.mask_rate * n) for n in range(length + 1)], np.int32))
        chosen = (place - first < counts[after - first]) & (group != jnp.iinfo(jnp.int32).max)
        return jnp.sort(jnp.where(chosen, origin, length))[:most]

    def loss(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum of the cross-entropy over the chosen positions, their number, and sums to divide by it.

        head_apply: (head_params, hidden, table or None) -> logits. The metrics are `top1`, `top5` and
        `top10`: how many true codes ranked that high.
        """
        weights = batch["target_weights"]
        hidden = _gather(outputs["hidden"], batch["target_index"])
        table = outputs["table"] if self.config.tied else None
        total, hits = chunked_loss(
            head_apply, self.config.chunk_size, head_params, hidden, table, batch["target_tokens"], weights
        )
        return total, weights.sum(), {"top1": hits[0], "top5": hits[1], "top10": hits[2]}

    def predictions(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Minus the log-likelihood of the true code (`loss`) and its `rank` (0: best), both [B, M]."""
        hidden = _gather(outputs["hidden"], batch["target_index"])
        table = outputs["table"] if self.config.tied else None
        losses, ranks = chunked_ranks(
            head_apply, self.config.chunk_size, head_params, hidden, table, batch["target_tokens"]
        )
        return {"loss": losses, "rank": ranks}


def _gather(hidden: Float[Array, "batch length d"], index: Int[Array, "batch m"]) -> Float[Array, "batch m d"]:
    # Row by row: a flat index over the batch would make every device fetch from every other.
    return jnp.take_along_axis(hidden, index[..., None], axis=1)
