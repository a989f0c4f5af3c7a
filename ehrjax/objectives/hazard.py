r"""Discrete-time survival: the hazard of each interval behind the prediction time (Gensheimer and Narasimhan 2019).

Time is cut at `edges_days` into K intervals. The head gives K scores; h_k = sigmoid(score_k) is the probability of the
event in interval k given none before, S_k = prod_{j <= k} (1 - h_j) that of none by its end. The likelihood of an event
in interval k is h_k prod_{j < k} (1 - h_j); of censoring at time c, the product of (1 - h_j) over the intervals that
were survived whole, and over the one that c lies in to the share of it that was observed, (1 - h_k)^share.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.objectives import pooled
from ehrjax.objectives.cross_entropy import HeadApply

NAME = "hazard"
FIELDS = pooled.FIELDS
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = True
"""A window ends at its prediction time, so nothing in it is the answer."""
LABELS = ("time",)
"""The kinds of labels that it can be trained on."""


@dataclasses.dataclass(frozen=True)
class Config:
    """edges_days: ends of the intervals, rising; the first begins at 0, and what comes behind the last is censored
    there. pooling, hidden, dropout, prediction_time: see classification.
    """

    edges_days: tuple[float, ...] = (30.0, 90.0, 180.0, 365.0, 730.0, 1825.0)
    pooling: str = "last"
    hidden: bool = True
    dropout: float = 0.1
    prediction_time: bool = False

    def __post_init__(self) -> None:
        pooled.check(self.pooling, self.dropout)
        edges = (0.0, *self.edges_days)
        if len(edges) < 2 or any(b <= a for a, b in zip(edges, edges[1:])):
            raise InputError(f"objective.edges_days is {self.edges_days}; it must be numbers above 0 that rise.")


class Objective(pooled.Supervised):
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def __init__(self, config: Config, **vocabulary: Any) -> None:
        """vocabulary: as the other objectives take it; not needed here."""
        super().__init__(config, **vocabulary)
        ends = np.asarray(config.edges_days, np.float32)
        self._starts, self._ends = np.concatenate([[np.float32(0)], ends[:-1]]), ends

    @property
    def outputs(self) -> int:
        """Scores a window: one an interval."""
        return len(self._ends)

    def loss(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum over windows of minus the log-likelihood, and their weight."""
        scores = self.scores(head_apply, head_params, outputs, batch)
        total, weight = pooled.weighted(self.negative_log_likelihood(scores, pooled.labels(batch)), batch["weights"])
        return total, weight, {}

    def negative_log_likelihood(
        self, scores: Float[Array, "... k"], labels: Float[Array, "... 2"]
    ) -> Float[Array, " ..."]:
        """labels: days to the event or to censoring, and 1 for an event."""
        days, event = labels[..., :1], labels[..., 1:] > 0
        event = event & (days <= self._ends[-1])
        # An event at the very edge belongs to the interval that ends there, one at once to the first.
        inside = ((days > self._starts) | (self._starts == 0)) & (days <= self._ends)
        survived = jnp.clip((days - self._starts) / (self._ends - self._starts), 0.0, 1.0)
        survived = jnp.where(event & inside, 0.0, survived)
        failed, alive = pooled.log_sigmoids(scores)
        return -(survived * alive + jnp.where(event & inside, failed, 0.0)).sum(axis=-1)

    def predictions(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """`hazards` and `survival` (by each interval's end), both [B, S, K], float32."""
        scores = self.scores(head_apply, head_params, outputs, batch)
        failed, alive = pooled.log_sigmoids(scores)
        return {"hazards": jnp.exp(failed), "survival": jnp.exp(jnp.cumsum(alive, axis=-1))}
