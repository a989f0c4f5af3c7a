"""Regression of a number on labelled windows: squared or absolute error, on the scale of the train labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.objectives import pooled
from ehrjax.objectives.cross_entropy import HeadApply

NAME = "regression"
FIELDS = pooled.FIELDS
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = True
"""A window ends at its prediction time, so nothing in it is the answer."""
LABELS = ("number",)
"""The kinds of labels that it can be trained on."""
LOSSES = ("squared", "absolute")


@dataclasses.dataclass(frozen=True)
class Config:
    """loss: 'squared' or 'absolute'. centre, scale: mean and standard deviation of the train labels (set from them):
    the head works in their units. non_negative: predictions are cut at 0. pooling, hidden, dropout,
    prediction_time: see classification.
    """

    loss: str = "squared"
    centre: float = 0.0
    scale: float = 1.0
    non_negative: bool = False
    pooling: str = "last"
    hidden: bool = True
    dropout: float = 0.1
    prediction_time: bool = False

    def __post_init__(self) -> None:
        pooled.check(self.pooling, self.dropout)
        if self.loss not in LOSSES:
            raise InputError(f"objective.loss is {self.loss!r}; it must be one of {', '.join(LOSSES)}.")
        if not self.scale > 0:
            raise InputError(f"objective.scale is {self.scale}; it must be above 0.")


class Objective(pooled.Supervised):
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def loss(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """Sum over windows of the error in standard deviations, their weight; `absolute_error` in the labels' unit."""
        scores = self.scores(head_apply, head_params, outputs, batch)[..., 0]
        labels = pooled.labels(batch)[..., 0]
        error = scores - (labels - self.config.centre) / self.config.scale
        losses = jnp.abs(error) if self.config.loss == "absolute" else jnp.square(error)
        total, weight = pooled.weighted(losses, batch["weights"])
        shown = jnp.abs(self._number(scores) - labels)
        return total, weight, {"absolute_error": pooled.weighted(shown, batch["weights"])[0]}

    def predictions(
        self, head_apply: HeadApply, head_params: Any, outputs: Mapping[str, Array], batch: Mapping[str, Array]
    ) -> dict[str, Array]:
        """`values` [B, S, 1], float32, in the labels' unit."""
        return {"values": self._number(self.scores(head_apply, head_params, outputs, batch))}

    def _number(self, scores: Array) -> Array:
        values = scores * self.config.scale + self.config.centre
        return jnp.maximum(values, 0.0) if self.config.non_negative else values
