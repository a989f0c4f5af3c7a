"""The transformer: a block, and a stack of blocks as one scan or unrolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ehrjax.core import layers as norms
from ehrjax.core import precision
from ehrjax.core.layers import ACTIVATIONS, Dense, activate, constrain_batch, dropout
from ehrjax.core.precision import FP32, Policy
from ehrjax.models import memory
from ehrjax.models.attention import IMPLEMENTATIONS, attend, attention_weights

Initializer = Callable[..., Any]
lecun_normal = nn.initializers.lecun_normal()

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What the backward pass finds stored: everything, the input of each block, or the results of its matmuls."""
WEIGHTS = "attention_weights"
"""The collection that attention probabilities are put into, where a caller makes it mutable."""
UNROLLED = 12
"""Deeper stacks are scanned on a CPU too: the time to compile grows with every unrolled layer."""


CHOICES = {"gelu": ACTIVATIONS, "remat": tuple(REMAT), "attention_implementation": IMPLEMENTATIONS}
"""What the settings that all transformers share may be."""


class SelfAttention(nn.Module):
    """Multi-head self-attention inside packed segments; separate kernels query, key, value, out.

    kv_heads: fewer heads of keys and values, each serving several of queries (None: as many).
    head_dim: the width of a head (None: the model's width over num_heads).
    rotary: the base of rotary positions (0: none); then `positions` turn queries and keys.
    """

    num_heads: int
    dropout: float = 0.0
    causal: bool = False
    window: int | None = None
    implementation: str = "auto"
    policy: Policy = FP32
    kv_heads: int | None = None
    head_dim: int | None = None
    rotary: float = 0.0
    use_bias: bool = True
    kernel_init: Initializer = lecun_normal
    out_init: Initializer = lecun_normal

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d"],
        segment_ids: Int[Array, "batch length"],
        dropout_key: Array | None,
        positions: Float[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length d"]:
        q, k, v = self._projected(x)
        if self.rotary:
            q, k = (turned(part, positions, self.rotary) for part in (q, k))
        if self.has_variable(memory.MEMORY, "own_keys"):
            return self._out(x, self._remembered(q, k, v))
        if self.is_mutable_collection(memory.KEPT):
            self.sow(memory.KEPT, "keys", k)
            self.sow(memory.KEPT, "values", v)
        if k.shape[2] != self.num_heads:
            k, v = (jnp.repeat(part, self.num_heads // k.shape[2], axis=2) for part in (k, v))
        if self.is_mutable_collection(WEIGHTS):
            self.sow(WEIGHTS, "weights", attention_weights(q, k, segment_ids, causal=self.causal, window=self.window))
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
        return self._out(x, out)

    def _out(self, x: Array, out: Float[Array, "batch length heads k"]) -> Float[Array, "batch length d"]:
        joined = out.reshape(*x.shape[:2], -1)
        return Dense(x.shape[-1], self.policy, self.out_init, self.use_bias, name="out")(joined)

    def _remembered(self, q: Array, k: Array, v: Array) -> Float[Array, "batch 1 heads k"]:
        """Attention of one token over what MEMORY holds, which then holds this token too."""
        out, new = memory.attend(q, k, v, dict(self.variables[memory.MEMORY]))
        for name, value in new.items():
            self.put_variable(memory.MEMORY, name, value)
        return out

    def _projected(self, x: Float[Array, "batch length d"]) -> list[Float[Array, "batch length heads k"]]:
        """Queries, keys and values, in one matmul where they are equally wide."""
        width = x.shape[-1]
        head_dim = self.head_dim or width // self.num_heads
        heads = (self.num_heads, *(2 * (self.kv_heads or self.num_heads,)))
        layers = [
            Dense(n * head_dim, self.policy, self.kernel_init, self.use_bias, name=name)
            for n, name in zip(heads, ("query", "key", "value"))
        ]
        # Not the compute dtype: the small products of attention gain nothing from bf16 on a CPU.
        split = lambda y, n: y.astype(self.policy.residual).reshape(*y.shape[:-1], n, head_dim)  # noqa: E731
        if len(set(heads)) > 1:
            return [split(layer(x), n) for layer, n in zip(layers, heads)]
        kernels, biases = zip(*[layer.parameters(width) for layer in layers])
        # One matmul reads x once. Stacked on a new axis, not joined: a mesh axis may split the columns.
        qkv = precision.contract("bld,dse->blse", x, jnp.stack(kernels, axis=1), self.policy.compute)
        if self.use_bias:
            qkv = qkv + jnp.stack(biases)
        qkv = split(qkv, self.num_heads)
        return [qkv[:, :, i] for i in range(3)]


def turned(
    x: Float[Array, "batch length heads k"], positions: Float[Array, "batch length"], base: float
) -> Float[Array, "batch length heads k"]:
    """Rotary positions (Su et al. 2021): pairs (i, i + k/2) of each head turned by position / base^(2i/k)."""
    half = x.shape[-1] // 2
    rates = base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, :, None, None] * rates
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    one, other = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([one * cosine - other * sine, other * cosine + one * sine], axis=-1).astype(x.dtype)


class MLP(nn.Module):
    """Dense up, activation, Dense down; gated: activation(gate) x up (Shazeer 2020)."""

    hidden: int
    activation: str = "erf"
    policy: Policy = FP32
    gated: bool = False
    use_bias: bool = True
    kernel_init: Initializer = lecun_normal
    out_init: Initializer = lecun_normal

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        up = Dense(self.hidden, self.policy, self.kernel_init, self.use_bias, name="up")(x)
        if self.gated:
            gate = Dense(self.hidden, self.policy, self.kernel_init, self.use_bias, name="gate")(x)
            inner = activate(gate, self.activation) * up
        else:
            inner = activate(up, self.activation)
        return Dense(x.shape[-1], self.policy, self.out_init, self.use_bias, name="down")(inner)


class Block(nn.Module):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`, dropout on each branch; norm_first=False: `norm(x + ...)`.

    kv_heads, head_dim, rotary: see SelfAttention. norm: 'layer' or 'rms'. kernel_init starts all kernels, out_init
    those that write to the residual stream.
    """

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
    norm_first: bool = True
    norm: str = "layer"
    gated: bool = False
    use_bias: bool = True
    kv_heads: int | None = None
    head_dim: int | None = None
    rotary: float = 0.0
    kernel_init: Initializer = lecun_normal
    out_init: Initializer = lecun_normal

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d"],
        layer: int | Int[Array, ""],
        segment_ids: Int[Array, "batch length"],
        dropout_key: Array | None,
        positions: Float[Array, "batch length"] | None = None,
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
            self.kv_heads,
            self.head_dim,
            self.rotary,
            self.use_bias,
            self.kernel_init,
            self.out_init,
            name="attention",
        )
        norm = self._norm("attention_norm")
        if self.norm_first:
            x = x + dropout(attention(norm(x), segment_ids, keys[0], positions), self.dropout, keys[1])
        else:
            x = norm(x + dropout(attention(x, segment_ids, keys[0], positions), self.dropout, keys[1]))
        norm = self._norm("mlp_norm")
        mlp = MLP(
            self.mlp_dim,
            self.gelu,
            self.policy,
            self.gated,
            self.use_bias,
            self.kernel_init,
            self.out_init,
            name="mlp",
        )
        if self.norm_first:
            x = x + dropout(mlp(norm(x)), self.dropout, keys[2])
        else:
            x = norm(x + dropout(mlp(x), self.dropout, keys[2]))
        return constrain_batch(x), None

    def _norm(self, name: str) -> nn.Module:
        return norms.norm(self.norm, self.layer_norm_epsilon, self.policy, use_bias=self.use_bias, name=name)


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
        positions: Float[Array, "batch length"] | None = None,
    ) -> Float[Array, "batch length d"]:
        """dropout_key: None means no dropout. positions: what rotary attention turns by."""
        block = Block
        unroll = self.unroll
        if unroll is None:
            unroll = jax.default_backend() == "cpu" and self.num_layers <= UNROLLED
        if self.remat != "none":
            block = nn.remat(Block, prevent_cse=not self.scan or unroll, policy=REMAT[self.remat])
        if not self.scan:
            for number in range(self.num_layers):
                x, _ = block(**self.settings, name=str(number))(x, number, segment_ids, dropout_key, positions)
            return x
        if unroll and not self.is_initializing():
            layers = unstacked(self.variables["params"], self.num_layers)
            for number, params in enumerate(layers):
                one = block(**self.settings, parent=None)
                x, _ = one.apply({"params": params}, x, number, segment_ids, dropout_key, positions)
            return x
        stack = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast, nn.broadcast),
            length=self.num_layers,
        )(**self.settings)
        nn.share_scope(self, stack)
        return stack(x, jnp.arange(self.num_layers), segment_ids, dropout_key, positions)[0]


def encoder(config: Any, policy: Policy, **own: Any) -> Encoder:
    """The encoder `layers` of a model's Config; `own` are settings of Block that the model has of its own.

    To be called in the model's compact method.
    """
    block = dict(
        num_heads=config.num_heads,
        mlp_dim=config.mlp_dim or 4 * config.hidden_dim,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        layer_norm_epsilon=config.layer_norm_epsilon,
        gelu=config.gelu,
        attention_implementation=config.attention_implementation,
        policy=policy,
        **own,
    )
    return Encoder(config.num_layers, block, config.remat, config.scan, config.unroll, name="layers")


def unstacked(params: Any, count: int) -> list[Any]:
    """The trees of each layer of a tree stacked on axis 0."""
    # lax.split and not indexing: its transposition is one concatenation, not a sum of padded gradients.
    leaves, structure = jax.tree.flatten(params)
    parts = [[x[0] for x in jax.lax.split(leaf, [1] * count)] for leaf in leaves]
    return [jax.tree.unflatten(structure, one) for one in zip(*parts)]
