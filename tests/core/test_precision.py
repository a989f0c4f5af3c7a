"""The bf16 matmul: rounded operands, float32 sums, and a backward pass in bf16 too."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import precision
from ehrjax.core.errors import InputError


def operands(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def test_policies():
    assert precision.policy("fp32") == precision.Policy(jnp.float32, jnp.float32)
    assert precision.policy("bf16", "cpu") == precision.Policy(jnp.bfloat16, jnp.float32)
    assert precision.policy("bf16", "gpu") == precision.Policy(jnp.bfloat16, jnp.bfloat16)
    with pytest.raises(InputError, match="'fp16'; it must be"):
        precision.policy("fp16")


SPECS = {
    "abn,nm->abm": [(3, 5, 16), (16, 8)],
    "abn,vn->abv": [(3, 5, 16), (24, 16)],
    "bld,sde->sble": [(2, 6, 16), (3, 16, 8)],
    "bhqk,bhvk->bhqv": [(2, 3, 6, 8), (2, 3, 6, 8)],
    "bhqv,bhvk->bhqk": [(2, 3, 6, 6), (2, 3, 6, 8)],
    "bhkq,bhqv->bhkv": [(2, 3, 8, 6), (2, 3, 6, 6)],
}


@pytest.mark.parametrize("spec", SPECS)
def test_bf16_is_fp32_on_rounded_operands(spec):
    left, right = operands(*SPECS[spec])
    rounded = [x.astype(jnp.bfloat16).astype(jnp.float32) for x in (left, right)]
    got = jax.jit(lambda a, b: precision.contract(spec, a, b, jnp.bfloat16))(left, right)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, jnp.einsum(spec, *rounded), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("spec", SPECS)
def test_bf16_gradients_are_those_of_fp32_within_bf16_error(spec):
    left, right = operands(*SPECS[spec])

    def loss(compute):
        return lambda a, b: jnp.sum(jnp.sin(precision.contract(spec, a, b, compute)))

    exact = jax.jit(jax.grad(loss(jnp.float32), (0, 1)))(left, right)
    got = jax.jit(jax.grad(loss(jnp.bfloat16), (0, 1)))(left, right)
    for a, b in zip(got, exact):
        assert a.dtype == jnp.float32
        # Three rounded factors of 2**-9 each, and the rounded arguments of a sine.
        assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) < 0.03


def test_bf16_backward_reads_bf16_operands_only():
    left, right = operands((4, 16), (16, 8))
    gradient = jax.grad(lambda a, b: jnp.sum(precision.contract("ln,nm->lm", a, b, jnp.bfloat16) ** 2), (0, 1))
    dots = [e for e in jax.make_jaxpr(gradient)(left, right).jaxpr.eqns if e.primitive.name == "dot_general"]
    assert len(dots) == 3
    for dot in dots:
        assert {x.aval.dtype for x in dot.invars} == {jnp.dtype(jnp.bfloat16)}
        assert dot.outvars[0].aval.dtype == jnp.float32


def test_matmul_has_the_dtype_of_the_residual_stream():
    x, kernel = operands((2, 3, 8), (8, 4))
    assert precision.matmul(x, kernel, precision.policy("bf16", "gpu")).dtype == jnp.bfloat16
    assert precision.matmul(x, kernel, precision.policy("bf16", "cpu")).dtype == jnp.float32
