"""The heads that objectives put on hidden states."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.core.layers import Dense, LayerNorm, gelu
from ehrjax.core.precision import FP32, Policy, contract


class CodeHead(nn.Module):
    """Scores of every code: Dense(D), GELU, LayerNorm, then Dense(V), or the code table itself if tied."""

    vocab_size: int
    tied: bool = False
    gelu: str = "erf"
    layer_norm_epsilon: float = 1e-5
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "... d"], table: Float[Array, "vocabulary e"] | None = None
    ) -> Float[Array, "... vocabulary"]:
        """Logits in float32. table: the model's code table, read only by a tied head."""
        x = Dense(hidden.shape[-1], self.policy, name="transform")(hidden)
        x = LayerNorm(self.layer_norm_epsilon, self.policy, name="norm")(gelu(x, self.gelu))
        if not self.tied:
            kernel, bias = Dense(self.vocab_size, self.policy, name="codes").parameters(x.shape[-1])
            kernel_axes = "nv"
        else:
            if table is None or table.shape[-1] != x.shape[-1]:
                raise InputError(
                    "objective.tied needs a model whose embedding_dim equals its hidden_dim; "
                    "set objective.tied to false or make the two equal."
                )
            kernel, bias = table, self.param("bias", nn.initializers.zeros, (self.vocab_size,), jnp.float32)
            kernel_axes = "vn"
        axes = "abcdefgh"[: x.ndim - 1]
        # The matmul adds up in float32 and so stays: logits are never rounded to the residual dtype.
        return contract(f"{axes}n,{kernel_axes}->{axes}v", x, kernel, self.policy.compute) + bias
