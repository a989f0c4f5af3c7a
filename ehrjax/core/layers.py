"""The layers that models and heads share: Dense, norms, tables, dropout, activations, sharding of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from ehrjax.core import precision, rng
from ehrjax.core.precision import FP32, Policy

BATCH_AXES = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are split."""
STATES = "states"
"""A collection in which a model may leave more of what it knows at each position than its hidden state [B, L, D]."""


class Dense(nn.Module):
    """`x @ kernel + bias` under a precision policy; kernel [in, out] and bias [out] are float32."""

    features: int
    policy: Policy = FP32
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    use_bias: bool = True

    def __call__(self, x: Float[Array, "... n"]) -> Float[Array, "... m"]:
        kernel, bias = self.parameters(x.shape[-1])
        y = precision.matmul(x, kernel, self.policy)
        return y if bias is None else y + bias.astype(y.dtype)

    @nn.compact
    def parameters(self, inputs: int) -> tuple[Float[Array, "n m"], Float[Array, " m"] | None]:
        """The kernel and the bias (None without one), for callers that fuse layers into one matmul."""
        kernel = self.param("kernel", self.kernel_init, (inputs, self.features), jnp.float32)
        if not self.use_bias:
            return kernel, None
        return kernel, self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis: statistics in float32, result in the dtype of the residual stream."""

    epsilon: float = 1e-5
    policy: Policy = FP32
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return y.astype(self.policy.residual)


class RMSNorm(nn.Module):
    """x / rms(x) over the last axis, scaled (Zhang and Sennrich 2019); statistics in float32."""

    epsilon: float = 1e-6
    policy: Policy = FP32

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt(jnp.square(x).mean(axis=-1, keepdims=True) + self.epsilon) * scale
        return y.astype(self.policy.residual)


def norm(kind: str, epsilon: float, policy: Policy, *, use_bias: bool = True, name: str) -> nn.Module:
    """The norm 'layer' or 'rms'."""
    if kind == "rms":
        return RMSNorm(epsilon, policy, name=name)
    return LayerNorm(epsilon, policy, use_bias, name=name)


class Table(nn.Module):
    """An embedding table [rows, width], float32, from normal(0, std), sinusoids of that size, or Xavier-uniform.

    Positions that start from sinusoids let attention find the neighbours of a token early: a shift is a rotation.
    """

    rows: int
    width: int
    waves: bool = False
    std: float = 0.02
    xavier: bool = False

    @nn.compact
    def __call__(self) -> Float[Array, "rows width"]:
        if self.waves:
            start = lambda key, shape, dtype: jnp.asarray(self.std * math.sqrt(2) * sinusoids(*shape), dtype)  # noqa: E731
        else:
            start = nn.initializers.xavier_uniform() if self.xavier else nn.initializers.normal(self.std)
        return self.param("embedding", start, (self.rows, self.width), jnp.float32)


def sinusoids(length: int, width: int) -> np.ndarray:
    """The position table [length, width] of Vaswani et al. (2017): sines in even columns, cosines in odd."""
    rates = np.exp(-math.log(10_000.0) * np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * rates
    table = np.zeros((length, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table


def dropout(x: Float[Array, " ..."], rate: float, key: Array | None) -> Float[Array, " ..."]:
    """Zeroes elements with probability `rate` and scales the rest up; the identity if key is None."""
    if key is None or rate == 0.0:
        return x
    keep = rng.keep_mask(rng.words(key), x.shape, rate)
    return jnp.where(keep, x * (1.0 / (1.0 - rate)), 0.0).astype(x.dtype)


ACTIVATIONS = ("erf", "tanh", "relu", "silu")


def activate(x: Float[Array, " ..."], kind: str) -> Float[Array, " ..."]:
    """GELU as 'erf' (Hendrycks and Gimpel 2016) or its approximation 'tanh', ReLU, or SiLU."""
    if kind == "tanh":
        return jax.nn.gelu(x, approximate=True)
    if kind == "relu":
        return jax.nn.relu(x)
    if kind == "silu":
        return jax.nn.silu(x)
    # Not jax.nn.gelu: it goes by erfc, which costs more than twice as much on a CPU as erf.
    return 0.5 * x * (1.0 + jax.lax.erf(x * (0.5**0.5)))


def constrain_batch(x: Float[Array, "batch ..."]) -> Float[Array, "batch ..."]:
    """Pins the rows of `x` to the 'data' and 'fsdp' axes of the mesh in context; without a mesh returns `x`.

    The mesh is the one of `jax.set_mesh`, with axes of type Auto (on an Explicit axis a constraint would only
    assert).
    """
    if batch_shards(x.shape[0]) == 1:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(tuple(_batch_axes())))


def batch_shards(rows: int) -> int:
    """Into how many parts the mesh in context splits `rows` rows; 1 without a mesh or if it cannot."""
    shards = math.prod(_batch_axes().values())
    return 1 if rows % shards else shards


def _batch_axes() -> dict[str, int]:
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types))
    return {axis: mesh.shape[axis] for axis in BATCH_AXES if types.get(axis) == AxisType.Auto}
