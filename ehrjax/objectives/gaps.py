"""How long until the next event: its distribution over bins of minutes, and the token given the gap.

The gap comes first, then the token: P(gap, token | past) = P(gap | past) P(token | past, gap). So what is sampled has
times that hang on the whole past, and a probability within a horizon needs the token's alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ehrjax.core.layers import Table
from ehrjax.objectives.heads import LinearHead

YEARS, BINS = 90, 48


def _edges() -> np.ndarray:
    """[BINS + 1] int32 minutes: bin k holds gaps from edge k up to, but not including, edge k + 1; bin 0 is no gap."""
    spaced = np.geomspace(1, YEARS * 525_960, BINS)
    return np.concatenate([[0], np.unique(np.round(spaced)).astype(np.int64)]).astype(np.int32)


EDGES = _edges()


def bin_of(minutes: Int[Array, " ..."]) -> Int[Array, " ..."]:
    """The bin of each gap; longer gaps than there are bins for are in the last."""
    return jnp.clip(jnp.searchsorted(EDGES, minutes, side="right") - 1, 0, len(EDGES) - 2)


def log_survival(scores: Float[Array, "... bins"], minutes: Int[Array, " ..."]) -> Float[Array, " ..."]:
    """Log of the probability of a gap of more than so many minutes; within a bin all gaps are equally likely."""
    low, high = jnp.asarray(EDGES[:-1]), jnp.asarray(EDGES[1:])
    left = jnp.clip(high - jnp.maximum(low, minutes[..., None] + 1), 0).astype(jnp.float32)
    share = left / (high - low).astype(jnp.float32)
    # The last bin has all that is longer, so it is never empty.
    share = share.at[..., -1].set(jnp.maximum(share[..., -1], 1e-6))
    known = jnp.where(share > 0, jnp.log(jnp.where(share > 0, share, 1.0)), -jnp.inf)
    return jax.nn.logsumexp(jax.nn.log_softmax(scores) + known, axis=-1)


class TimedHead(LinearHead):
    """Scores of every token given the gap before it, as LinearHead gives them; and of every bin of gaps."""

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "... d"],
        table: Float[Array, "vocabulary e"] | None = None,
        bins: Int[Array, " ..."] | None = None,
    ) -> Float[Array, "... vocabulary"]:
        """Logits of tokens in float32. bins: the gaps before them; None: `hidden` is `given` them already."""
        count, width = len(EDGES) - 1, hidden.shape[-1]
        gap = Table(count, width, name="gap")()
        self.param("time", nn.initializers.zeros, (width, count), jnp.float32)
        tokens = LinearHead(self.vocab_size, self.tied, self.use_bias, self.absent, self.policy, name="tokens")
        return tokens(hidden if bins is None else hidden + gap[bins].astype(hidden.dtype), table)


def given(
    head_params: Mapping[str, Any], hidden: Float[Array, "... d"], bins: Int[Array, " ..."]
) -> Float[Array, "... d"]:
    """Hidden states with the gaps that follow them, as a TimedHead takes them."""
    return hidden + head_params["gap"]["embedding"][bins].astype(hidden.dtype)


def gap_scores(head_params: Mapping[str, Any], hidden: Float[Array, "... d"]) -> Float[Array, "... bins"]:
    """Scores of every bin of gaps, float32, by the parameters of a TimedHead."""
    return jnp.einsum("...d,dk->...k", hidden.astype(jnp.float32), head_params["time"], precision="highest")
