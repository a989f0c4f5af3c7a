"""The pre-LN transformer encoder: a block, and a stack of blocks as one scan or unrolled."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ehrjax.core import precision
from ehrjax.core.layers import Dense, LayerNorm, constrain_batch, dropout, gelu
from ehrjax.core.precision import FP32, Policy
from ehrjax.models.attention import attend

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass finds stored: everything, only the input of each block, or the results of its matmuls."""


class SelfAttention(nn.Module):
    """Multi-head self-attention inside packed segments; query, key, value and out are separate [D, D] kernels."""

    num_heads: int
    dropout: float = 0.0
    causal: bool = False
    window: int | None = None
    implementation: str = "auto"
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d"],
        segment_ids: Int[Array, "batch length"],
        dropout_key: Array | None,
    ) -> Float[Array, "batch length d"]:
        width = x.shape[-1]
        layers = [Dense(width, self.policy, name=name) for name in ("query", "key", "value")]
        kernels, biases = zip(*[layer.parameters(width) for layer in layers])
        # One matmul reads x once. Stacked on a new axis, not joined: the columns may be split over a mesh axis.
        qkv = precision.contract("bld,sde->sble", x, jnp.stack(kernels), self.policy.compute)
        qkv = (qkv + jnp.stack(biases)[:, None, None]).astype(self.policy.compute)
        q, k, v = qkv.reshape(*qkv.shape[:3], self.num_heads, width // self.num_heads)
        out = attend(
            q,
            k,
            v,
            segment_ids=segment_ids,
            causal=self.causal,
            window=self.window,
            dropout_rate=self.dropout,
            dropout_key=dropout_key,
            deterministic=dropout_key is None,
            implementation=self.implementation,
        )
        return Dense(width, self.policy, name="out")(out.reshape(x.shape))


class MLP(nn.Module):
    """Dense up, GELU, Dense down."""

    hidden: int
    gelu: str = "erf"
    policy: Policy = FP32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        up = Dense(self.hidden, self.policy, name="up")(x)
        return Dense(x.shape[-1], self.policy, name="down")(gelu(up, self.gelu))


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, dropout on each branch."""

    num_heads: int
    mlp_dim: int
    dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_epsilon: float = 1e-5
    gelu: str = "erf"
    causal: bool = False
    window: int | None = None
    attention_implementation: str = "auto"
    policy: Policy = FP32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d"],
        layer: Int[Array, ""],
        segment_ids: Int[Array, "batch length"],
        dropout_key: Array | None,
    ) -> tuple[Float[Array, "batch length d"], None]:
        """layer: this block's number, folded into the key. The second result is only there for `nn.scan`."""
        keys = (
            [None] * 3 if dropout_key is None else jax.random.split(jax.random.fold_in(dropout_key, layer), 3)
        )
        x = constrain_batch(x)
        attention = SelfAttention(
            self.num_heads,
            self.attention_dropout,
            self.causal,
            self.window,
            self.attention_implementation,
            self.policy,
            name="attention",
        )
        norm = LayerNorm(self.layer_norm_epsilon, self.policy, name="attention_norm")
        x = x + dropout(attention(norm(x), segment_ids, keys[0]), self.dropout, keys[1])
        norm = LayerNorm(self.layer_norm_epsilon, self.policy, name="mlp_norm")
        mlp = MLP(self.mlp_dim, self.gelu, self.policy, name="mlp")
        x = x + dropout(mlp(norm(x)), self.dropout, keys[2])
        return constrain_batch(x), None


class Unrolled(nn.Module):
    """The blocks one after another, with parameters `0/...`, `1/...` instead of stacked ones."""

    block: type[nn.Module]
    settings: dict
    num_layers: int

    @nn.compact
    def __call__(self, x, layers, segment_ids, dropout_key):
        for number in range(self.num_layers):
            x, _ = self.block(**self.settings, name=str(number))(x, layers[number], segment_ids, dropout_key)
        return x, None


def encoder(
    *, num_layers: int, remat: str = "none", scan: bool = True, name: str = "layers", **settings: object
) -> nn.Module:
    """A stack of `Block(**settings)`, called as `(x, arange(num_layers), segment_ids, dropout_key) -> (x, None)`.

    scan: parameters stacked on axis 0 under `name/...` and one traced block; otherwise `name/0/...`, `name/1/...`.
    Both give the same numbers, dropout included, since the keys depend only on the number of the layer.
    remat: a key of REMAT.
    """
    block = Block
    if remat != "none":
        block = nn.remat(Block, prevent_cse=not scan, policy=REMAT[remat])
    if not scan:
        return Unrolled(block, settings, num_layers, name=name)
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=(0, nn.broadcast, nn.broadcast),
        length=num_layers,
    )
    return stack(**settings, name=name)
