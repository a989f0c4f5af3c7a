"""The layers that models and heads share: Dense, LayerNorm, dropout, GELU, sharding of activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array, Float

from ehrjax.core import precision, rng
from ehrjax.core.precision import FP32, Policy

BATCH_AXES = ("data", "fsdp")
"""The mesh axes over which the rows of a batch are split."""


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

    @nn.compact
    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
        return y.astype(self.policy.residual)


def dropout(x: Float[Array, " ..."], rate: float, key: Array | None) -> Float[Array, " ..."]:
    """Zeroes elements with probability `rate` and scales the rest up; the identity if key is None."""
    if key is None or rate == 0.0:
        return x
    keep = rng.keep_mask(rng.words(key), x.shape, rate)
    return jnp.where(keep, x * (1.0 / (1.0 - rate)), 0.0).astype(x.dtype)


def gelu(x: Float[Array, " ..."], kind: str) -> Float[Array, " ..."]:
    """GELU: 'erf' as defined by Hendrycks and Gimpel (2016), 'tanh' its approximation."""
    if kind == "tanh":
        return jax.nn.gelu(x, approximate=True)
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
