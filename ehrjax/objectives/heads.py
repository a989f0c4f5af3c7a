"""The heads that objectives put on hidden states."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError
from ehrjax.core.layers import Dense, LayerNorm, activate
from ehrjax.core.precision import FP32, Policy, contract

# Far below any score, yet finite.
_NEVER = -1e30


class LinearHead(nn.Module):
    """Scores of every token straight from the hidden state: Dense(V), or the code table itself if tied.

    absent: ids that are never predicted (a converted checkpoint has no rows for some specials).
    """

    vocab_size: int
    tied: bool = True
    use_bias: bool = False
    absent: tuple[int, ...] = ()
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "... d"], table: Float[Array, "vocabulary e"] | None = None
    ) -> Float[Array, "... vocabulary"]:
        """Logits in float32. table: the model's code table, read only by a tied head."""
        return _scores(self, hidden, table)


class CodeHead(nn.Module):
    """Scores of every code: Dense(D), GELU, LayerNorm, then Dense(V), or the code table itself if tied."""

    vocab_size: int
    tied: bool = False
    gelu: str = "erf"
    layer_norm_epsilon: float = 1e-5
    use_bias: bool = True
    absent: tuple[int, ...] = ()
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "... d"], table: Float[Array, "vocabulary e"] | None = None
    ) -> Float[Array, "... vocabulary"]:
        """Logits in float32. table: the model's code table, read only by a tied head."""
        return self.scores(hidden, table)

    def scores(
        self, hidden: Float[Array, "... d"], table: Float[Array, "vocabulary e"] | None
    ) -> Float[Array, "... vocabulary"]:
        """What `__call__` gives, for heads that do more; to be called in a compact method."""
        x = Dense(hidden.shape[-1], self.policy, name="transform")(hidden)
        x = LayerNorm(self.layer_norm_epsilon, self.policy, name="norm")(activate(x, self.gelu))
        return _scores(self, x, table)


def _scores(
    head: LinearHead | CodeHead, x: Float[Array, "... n"], table: Float[Array, "vocabulary e"] | None
) -> Float[Array, "... vocabulary"]:
    """The last layer of a head, in the head's scope."""
    if not head.tied:
        layer = Dense(head.vocab_size, head.policy, use_bias=head.use_bias, name="codes")
        (kernel, bias), kernel_axes = layer.parameters(x.shape[-1]), "nv"
    else:
        if table is None or table.shape[-1] != x.shape[-1]:
            raise InputError(
                "objective.tied needs a model whose embedding_dim equals its hidden_dim; "
                "set objective.tied to false or make the two equal."
            )
        kernel, kernel_axes = table, "vn"
        bias = head.param("bias", nn.initializers.zeros, (head.vocab_size,), jnp.float32) if head.use_bias else None
    axes = "abcdefgh"[: x.ndim - 1]
    # The matmul adds up in float32 and so stays: logits are never rounded to the residual dtype.
    logits = contract(f"{axes}n,{kernel_axes}->{axes}v", x, kernel, head.policy.compute)
    if bias is not None:
        logits = logits + bias
    if head.absent:
        there = np.ones(head.vocab_size, bool)
        there[list(head.absent)] = False
        logits = jnp.where(there, logits, _NEVER)
    return logits
