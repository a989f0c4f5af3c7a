"""The codes of the next visit, all at once: a yes or no for every code from the last code of the visit before."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from ehrjax.core.precision import FP32, Policy
from ehrjax.core.visits import last_codes, of_row
from ehrjax.objectives import next_token
from ehrjax.objectives.cross_entropy import HeadApply

NAME = "next_visit"
FIELDS = ("tokens", "segment_ids", "visit_ids", "ends")
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = "visit"
"""A position may see later tokens of its own visit, but not the next one."""


@dataclasses.dataclass(frozen=True)
class Config(next_token.Config):
    """next_token's settings; by default the output layer is not the code table, and has a bias."""

    tied: bool = False
    use_bias: bool = True


class Objective(next_token.Objective):
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def __init__(
        self, config: Config, *, vocab_size: int, num_specials: int, mask_id: int, policy: Policy = FP32
    ) -> None:
        """num_specials: ids below are no codes. mask_id: not needed here."""
        super().__init__(config, vocab_size=vocab_size, num_specials=num_specials, mask_id=mask_id, policy=policy)
        self.num_specials = num_specials

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """Adds, each [B, L]: `predicts` (bool: this position tells the next visit), `told_at` (int32: the position that
        tells this token; -1: none).

        A visit is told from the last code of the visit before in its window; static tokens belong to the first visit.
        The last visit of a window is told only if its subject's record ends there: else the window may have cut it, and
        codes behind the cut are not absent.
        """
        told = jax.vmap(partial(_told_at, self.num_specials))
        at = told(batch["tokens"], batch["segment_ids"], batch["visit_ids"], batch["ends"])
        predicts = jax.vmap(lambda p: jnp.zeros(p.shape, bool).at[jnp.where(p < 0, len(p), p)].set(True, mode="drop"))
        return {**batch, "told_at": at, "predicts": predicts(at)}

    def loss(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum over visits and codes of the binary cross-entropy, the number of visits, and `top1`: of how many the code
        with the highest score occurs.
        """
        scored = partial(_losses, head_apply, head_params, outputs["table"] if self.config.tied else None)

        @jax.checkpoint
        def body(total: tuple[Array, Array], start: Array) -> tuple[tuple[Array, Array], None]:
            losses, hits, _ = scored(*self._chunk(outputs["hidden"], batch, start))
            return (total[0] + losses.sum(), total[1] + hits.sum()), None

        zero = jnp.float32(0)
        (total, hits), _ = jax.lax.scan(body, (zero, zero), self._starts(batch))
        return total, batch["predicts"].sum(dtype=jnp.float32), {"top1": hits}

    def predictions(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> dict[str, Array]:
        """Of each position [B, L] that tells a visit: `loss`, and `recall10`, the share of the visit's codes that are
        among the ten with the highest scores; 0 elsewhere.
        """
        scored = partial(_losses, head_apply, head_params, outputs["table"] if self.config.tied else None)

        def body(_: None, start: Array) -> tuple[None, tuple[Array, Array]]:
            hidden, there, predicts = self._chunk(outputs["hidden"], batch, start)
            losses, _, logits = scored(hidden, there, predicts)
            best = jax.lax.top_k(logits, min(10, logits.shape[-1]))[1]
            found = jnp.take_along_axis(there, best, axis=-1).sum(-1)
            return None, (losses, predicts * found / jnp.maximum(there.sum(-1), 1))

        _, pieces = jax.lax.scan(body, None, self._starts(batch))
        rows, length = batch["tokens"].shape
        losses, recall = (jnp.moveaxis(piece, 0, 1).reshape(rows, -1)[:, :length] for piece in pieces)
        return {"loss": losses, "recall10": recall}

    def _each(self, batch: Mapping[str, Array]) -> int:
        """Positions of a row in a chunk: along the row, so that rows stay on their devices."""
        rows, length = batch["tokens"].shape
        return max(1, min(length, self.config.chunk_size // rows))

    def _starts(self, batch: Mapping[str, Array]) -> Int[Array, " chunks"]:
        return jnp.arange(0, batch["tokens"].shape[1], self._each(batch))

    def _chunk(
        self, hidden: Float[Array, "batch length d"], batch: Mapping[str, Array], start: Array
    ) -> tuple[Float[Array, "batch m d"], Bool[Array, "batch m vocabulary"], Bool[Array, "batch m"]]:
        """Hidden states of some positions, the codes of the visits that they tell, and which of them tell one."""
        each, length = self._each(batch), hidden.shape[1]
        places = start + jnp.arange(each)
        inside = jnp.minimum(places, length - 1)
        predicts = batch["predicts"][:, inside] & (places < length)

        def codes(tokens: Array, told_at: Array) -> Array:
            slot = jnp.where((told_at >= start) & (told_at < start + each), told_at - start, each)
            return jnp.zeros((each, self.vocab_size), bool).at[slot, tokens].set(True, mode="drop")

        return hidden[:, inside], jax.vmap(codes)(batch["tokens"], batch["told_at"]), predicts


def _told_at(
    num_specials: int,
    tokens: Int[Array, " length"],
    segments: Int[Array, " length"],
    visits: Int[Array, " length"],
    ends: Int[Array, " windows"],
) -> Int[Array, " length"]:
    """The position that tells each code of a row: the last code of the visit before; -1 for other tokens."""
    code = (tokens >= num_specials) & (segments > 0)
    number, _, whose = of_row(segments, visits)
    last = last_codes(code, number)
    before = jnp.where(number > 0, last[number - 1], -1)
    same = whose[number - 1] == segments
    newest = jax.ops.segment_max(number, segments, num_segments=len(ends) + 1)[segments]
    whole = (number < newest) | (ends[jnp.maximum(segments - 1, 0)] > 0)
    return jnp.where(code & same & whole & (number > 0), before, -1).astype(jnp.int32)


def _losses(
    head_apply: HeadApply,
    head_params: Any,
    table: Array | None,
    hidden: Float[Array, "batch m d"],
    there: Bool[Array, "batch m vocabulary"],
    predicts: Bool[Array, "batch m"],
) -> tuple[Float[Array, "batch m"], Float[Array, "batch m"], Float[Array, "batch m vocabulary"]]:
    """Binary cross-entropy summed over codes, whether the code with the highest score occurs, and the scores."""
    logits = head_apply(head_params, hidden, table)
    losses = (jax.nn.softplus(logits) - jnp.where(there, logits, 0.0)).sum(-1)
    best = jnp.where(there, logits, -jnp.inf).max(-1) >= logits.max(-1)
    return losses * predicts, (best & predicts).astype(jnp.float32), logits
