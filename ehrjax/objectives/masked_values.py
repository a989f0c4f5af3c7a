"""Masked-code modelling that also predicts the values of hidden codes (CEHR-BERT's value prediction).

The value of a hidden code is hidden with it: shown, it would be the answer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.core.layers import Dense, LayerNorm, activate
from ehrjax.objectives import masked_codes
from ehrjax.objectives.cross_entropy import HeadApply
from ehrjax.objectives.heads import CodeHead

NAME = "masked_values"
FIELDS = ("tokens", "segment_ids", "values")
"""The fields of a batch that the objective reads."""
ALLOWS_FUTURE = True
"""Legal with a model whose positions see later tokens: what is predicted is hidden from them."""


@dataclasses.dataclass(frozen=True)
class Config(masked_codes.Config):
    """As masked_codes; value_weight: of the squared error of a value beside the cross-entropy of a code."""

    value_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.value_weight < 0:
            raise InputError(f"objective.value_weight is {self.value_weight}; it must not be negative.")


class Head(CodeHead):
    """A CodeHead, and Dense(D/2) GELU LayerNorm Dense(1) GELU for values."""

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "... d"], table: Float[Array, "vocabulary e"] | None = None, what: str = "codes"
    ) -> Float[Array, " ..."]:
        """what: 'codes' gives logits [..., V], 'values' predicted values [...]; both float32."""
        if what == "values" or self.is_initializing():
            x = Dense(hidden.shape[-1] // 2, self.policy, name="value_transform")(hidden)
            x = LayerNorm(self.layer_norm_epsilon, self.policy, name="value_norm")(activate(x, "tanh"))
            values = Dense(1, self.policy, name="value")(x)[..., 0].astype(jnp.float32)
            if what == "values":
                return activate(values, "tanh")
        return self.scores(hidden, table)


class Objective(masked_codes.Objective):
    """The objective as pure functions of (batch, key, parameters, outputs of the model)."""

    def head(self) -> nn.Module:
        """The head: `head(hidden, table) -> logits`, `head(hidden, None, "values") -> values`."""
        return Head(**self._head_settings())

    def prepare(self, batch: Mapping[str, Array], key: Array, *, evaluate: bool = False) -> dict[str, Array]:
        """As masked_codes; the values of chosen places are hidden too.

        Adds `target_values` [B, M], NaN where there is none.
        """
        prepared = super().prepare(batch, key, evaluate=evaluate)
        index, there = prepared["target_index"], prepared["target_weights"] > 0
        values = jnp.where(there, jnp.take_along_axis(batch["values"], index, axis=1), jnp.nan)
        rows = jnp.arange(index.shape[0])[:, None]
        at = jnp.where(there, index, batch["values"].shape[1])
        hidden = batch["values"].at[rows, at].set(jnp.nan, mode="drop")
        return {**prepared, "values": hidden, "target_values": values}

    def loss(
        self,
        head_apply: HeadApply,
        head_params: Any,
        outputs: Mapping[str, Array],
        batch: Mapping[str, Array],
    ) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
        """As masked_codes; to the sum comes the squared error of the hidden values (`value_error`)."""
        total, weight, sums = super().loss(head_apply, head_params, outputs, batch)
        hidden = jnp.take_along_axis(outputs["hidden"], batch["target_index"][..., None], axis=1)
        predicted = head_apply(head_params, hidden, None, "values")
        known = jnp.isfinite(batch["target_values"])
        error = jnp.where(known, jnp.square(predicted - jnp.where(known, batch["target_values"], 0.0)), 0.0).sum()
        return total + self.config.value_weight * error, weight, {**sums, "value_error": error}
