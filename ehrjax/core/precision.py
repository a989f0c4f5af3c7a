"""Number formats: fp32 parameters, softmax, normalisation and loss; bf16 operands of matmuls."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ehrjax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which dtype is used where. Parameters, softmax, LayerNorm statistics and losses are always float32.

    compute: dtype of matmul operands, in the forward and in the backward pass. Sums are float32.
    residual: dtype of the activations between matmuls (the residual stream).
    """

    compute: Any = jnp.float32
    residual: Any = jnp.float32


FP32 = Policy()


def policy(name: str, platform: str | None = None) -> Policy:
    """The policy 'fp32' or 'bf16' for a platform ('cpu', 'gpu', 'tpu'; None: the default backend).

    On a CPU only the matmuls gain from bf16 (elementwise bf16 arithmetic is emulated there), so the residual
    stream stays float32; on accelerators it is bf16, which halves the memory traffic. Raises InputError for
    another name.
    """
    if name == "fp32":
        return FP32
    if name == "bf16":
        on_cpu = (platform or jax.default_backend()) == "cpu"
        return Policy(compute=jnp.bfloat16, residual=jnp.float32 if on_cpu else jnp.bfloat16)
    raise InputError(f"precision is {name!r}; it must be 'fp32' or 'bf16'.")


def contract(spec: str, left: Array, right: Array, compute: Any, out: Any = jnp.float32) -> Array:
    """`jnp.einsum(spec, left, right)` with operands in `compute`, sums in float32, the result in `out`.

    spec: explicit, without ellipsis; every index of an operand must occur in the other operand or in the
    result. With bf16 the two matmuls of the backward pass also read bf16 operands: plain autodiff would keep
    the float32 cotangent of the float32 result and run both in float32, which loses the whole gain in a
    training step.
    """
    if jnp.dtype(compute) == jnp.float32:
        return _einsum(spec, left.astype(jnp.float32), right.astype(jnp.float32)).astype(out)
    return _low_precision(spec, jnp.dtype(compute), left, right).astype(out)


def matmul(x: Float[Array, "... n"], kernel: Float[Array, "n m"], policy: Policy) -> Float[Array, "... m"]:
    """`x @ kernel` under `policy`; the result has the dtype of the residual stream."""
    axes = "abcdefgh"[: x.ndim - 1]
    return contract(f"{axes}n,nm->{axes}m", x, kernel, policy.compute, policy.residual)


def _einsum(spec: str, left: Array, right: Array) -> Array:
    # HIGHEST: a GPU would otherwise round float32 operands to TF32. It changes nothing for bf16 operands or
    # on CPU.
    return jnp.einsum(spec, left, right, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _low_precision(spec: str, compute: Any, left: Array, right: Array) -> Array:
    return _einsum(spec, left.astype(compute), right.astype(compute))


def _low_precision_forward(spec: str, compute: Any, left: Array, right: Array) -> tuple[Array, tuple]:
    # The residuals are the rounded operands: half the memory of keeping float32 activations.
    rounded = left.astype(compute), right.astype(compute)
    empty = jnp.zeros((0,), left.dtype), jnp.zeros((0,), right.dtype)
    return _einsum(spec, *rounded), (rounded, empty)


def _low_precision_backward(spec: str, compute: Any, residuals: tuple, cotangent: Array) -> tuple[Array, Array]:
    (left, right), (like_left, like_right) = residuals
    inputs, result = spec.split("->")
    left_axes, right_axes = inputs.split(",")
    cotangent = cotangent.astype(compute)
    grad_left = _einsum_in_order(result, right_axes, left_axes, cotangent, right)
    grad_right = _einsum_in_order(left_axes, result, right_axes, left, cotangent)
    return grad_left.astype(like_left.dtype), grad_right.astype(like_right.dtype)


def _einsum_in_order(left_axes: str, right_axes: str, result: str, left: Array, right: Array) -> Array:
    """The einsum with that operand first whose own axes lead the result.

    XLA's CPU backend (jax 0.10) fails at run time on some bf16 products that end in a transposition.
    """
    own = [axis for axis in result if (axis in left_axes) != (axis in right_axes)]
    if own and own[0] in right_axes:
        left_axes, right_axes, left, right = right_axes, left_axes, right, left
    return _einsum(f"{left_axes},{right_axes}->{result}", left, right)


_low_precision.defvjp(_low_precision_forward, _low_precision_backward)
