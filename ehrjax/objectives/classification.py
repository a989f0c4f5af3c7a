"""Classification of labelled windows: yes or no, one of several classes (stages too), several codes or tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.objectives import pooled
from ehrjax.objectives.cross_entropy import HeadApply

NAME = "classification"
FIELDS = pooled.FIELDS
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = True
"""A window ends at its prediction time, so nothing in it is the answer."""
LABELS = ("yes_no", "classes", "codes", "tasks")
"""The kinds of labels that it can be trained on."""


@dataclasses.dataclass(frozen=True)
class Config:
    """kind and outputs are set from the labels: yes_no (1), classes, codes or tasks (how many).

    pooling: cls, mean, max or last (pooling.py). hidden: a hidden layer in the head. prediction_time:
    the head knows when it predicts (moments.py), not only what came before. positive_weight: of labels that
    are yes, for rare outcomes. balanced: each class weighs the same in all, and each answer of a code or task; then
    `class_weights` are set from the train labels: of classes one each, otherwise what a yes weighs, an output each.
    Weighted training shifts probabilities, so they want recalibration (`ehrjax.evaluate` does that).
    """

    kind: str = "yes_no"
    outputs: int = 1
    pooling: str = "last"
    hidden: bool = True
    dropout: float = 0.1
    prediction_time: bool = False
    positive_weight: float = 1.0
    balanced: bool = False
    class_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        pooled.check(self.pooling, self.dropout)
        if self.kind not in LABELS:
            raise InputError(f"objective.kind is {self.kind!r}; classification has {', '.join(LABELS)}.")
        if self.outputs < 1 or self.positive_weight <= 0:
            raise InputError("objective.outputs must be at least 1 and objective.positive_weight above 0.")
        if self.kind == "classes" and self.positive_weight != 1:
            raise InputError("objective.positive_weight is for yes or no and for codes; leave it 1 for classes.")
        if self.balanced and self.positive_weight != 1:
            raise InputError("objective.balanced and objective.positive_weight are two ways of weighting; choose one.")
        if len(self.class_weights) not in (0, self.outputs):
            raise InputError("objective.class_weights are set from the labels; choose objective.balanced instead.")


class Objective(pooled.Supervised):
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    @property
    def outputs(self) -> int:
        """Scores a window."""
        return self.config.outputs

    def loss(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum over windows of the cross-entropy (mean over codes; over the tasks that are asked), their weight, and
        `accuracy` to divide by it."""
        scores = self.scores(head_apply, head_params, outputs, batch)
        labels, weights = pooled.labels(batch), batch["weights"]
        given = jnp.asarray(self.config.class_weights) if self.config.class_weights else None
        if self.config.kind == "classes":
            index = labels[..., 0].astype(jnp.int32)
            losses = -jnp.take_along_axis(jax.nn.log_softmax(scores), index[..., None], axis=-1)[..., 0]
            losses = losses if given is None else losses * given[index]
            right = (jnp.argmax(scores, axis=-1) == index).astype(jnp.float32)
        else:
            asked = jnp.logical_not(jnp.isnan(labels)).astype(jnp.float32)
            labels = jnp.where(asked > 0, labels, 0.0)
            share = asked / jnp.maximum(asked.sum(axis=-1, keepdims=True), 1.0)
            yes, no = pooled.log_sigmoids(scores)
            weight = self.config.positive_weight if given is None else given
            losses = -((weight * labels * yes + (1 - labels) * no) * share).sum(axis=-1)
            right = (((scores > 0) == (labels > 0.5)) * share).sum(axis=-1)
        total, weight = pooled.weighted(losses, weights)
        return total, weight, {"accuracy": (right * weights).sum()}

    def predictions(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """`probabilities` [B, S, outputs], float32."""
        scores = self.scores(head_apply, head_params, outputs, batch)
        chosen = jax.nn.softmax(scores) if self.config.kind == "classes" else jax.nn.sigmoid(scores)
        return {"probabilities": chosen}
