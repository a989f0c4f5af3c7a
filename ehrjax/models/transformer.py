"""The pre-LN transformer encoder: a block, and a stack of blocks as one scan or unrolled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
"""What the backward pass finds stored: everything, the input of each block, or the results of its matmuls."""
UNROLLED = 12
"""Deeper stacks are scanned on a CPU too: the time to compile grows with every unrolled layer."""


class SelfAttention(nn.Module):
    """Multi-head self-attention inside packed segments; separate [D, D] kernels query, key, value, out."""

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
        # One matmul reads x once. Stacked on a new axis, not joined: a mesh axis may split the columns.
        kernel, bias = jnp.stack(kernels, axis=1), jnp.stack(biases)
        qkv = precision.contract("bld,dse->blse", x, kernel, self.policy.compute) + bias
        # Not the compute dtype: the small products of attention gain nothing from bf16 on a CPU.
        qkv = qkv.astype(self.policy.residual)
        qkv = qkv.reshape(*qkv.shape[:3], self.num_heads, width // self.num_heads)
        q, k, v = (qkv[:, :, i] for i in range(3))
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
        layer: int | Int[Array, ""],
        segment_ids: Int[Array, "batch length"],
        dropout_key: Array | None,
    ) -> tuple[Float[Array, "batch length d"], None]:
        """layer: this block's number, folded into the key. The second result is only there for `nn.scan`."""
        keys = [None] * 3 if dropout_key is None else jax.random.split(jax.random.fold_in(dropout_key, layer), 3)
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


class Encoder(nn.Module):
    """`num_layers` blocks, with their parameters stacked on axis 0 (scan) or under `0/...`, `1/...`.

    Stacked parameters are run by one loop, so that a single block is compiled, or unrolled: faster on a CPU,
    where the loop has to copy all that the backward pass needs into stacked buffers. All three give the same
    numbers, dropout included, since the keys depend only on the number of the layer.

    settings: the fields of Block. remat: a key of REMAT. unroll: None unrolls on a CPU up to UNROLLED layers.
    """

    num_layers: int
    settings: Mapping[str, Any]
    remat: str = "none"
    scan: bool = True
    unroll: bool | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d"],
        segment_ids: Int[Array, "batch length"],
        dropout_key: Array | None,
    ) -> Float[Array, "batch length d"]:
        """dropout_key: None means no dropout."""
        block = Block
        unroll = self.unroll
        if unroll is None:
            unroll = jax.default_backend() == "cpu" and self.num_layers <= UNROLLED
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=not self.scan or unroll, policy=REMAT[self.remat])
        if not self.scan:
            for number in range(self.num_layers):
                x, _ = block(**self.settings, name=str(number))(x, number, segment_ids, dropout_key)
            return x
        if unroll and not self.is_initializing():
            layers = unstacked(self.variables["params"], self.num_layers)
            for number, params in enumerate(layers):
                one = block(**self.settings, parent=None)
                x, _ = one.apply({"params": params}, x, number, segment_ids, dropout_key)
            return x
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=self.num_layers,
        )(**self.settings)
        nn.share_scope(self, stack)
        return stack(x, jnp.arange(self.num_layers), segment_ids, dropout_key)[0]


def unstacked(params: Any, count: int) -> list[Any]:
    """The trees of each layer of a tree stacked on axis 0."""
    # lax.split and not indexing: its transposition is one concatenation, not a sum of padded gradients.
    leaves, structure = jax.tree.flatten(params)
    parts = [[x[0] for x in jax.lax.split(leaf, [1] * count)] for leaf in leaves]
    return [jax.tree.unflatten(structure, one) for one in zip(*parts)]
