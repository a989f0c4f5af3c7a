"""The training state: everything that a checkpoint holds of the device world."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Int

from ehrjax.core import mesh as meshes


@flax.struct.dataclass
class TrainState:
    """A pytree.

    Attributes:
      step: optimizer steps taken.
      params: {"model": ..., "head": ...}, float32.
      opt_state: the optimizer's.
      extras: state without gradients (averages, codebook usage), updated by pure functions.
    """

    step: Int[Array, ""]
    params: dict[str, Any]
    opt_state: optax.OptState
    extras: dict[str, Any]


def create(init: Any, optimizer: Any, mesh: Mesh) -> tuple[TrainState, TrainState]:
    """Makes the first state, each array born where it will lie.

    Args:
      init: () -> params, pure.
      optimizer: the optax optimizer.
      mesh: the device mesh.

    Returns:
      The state and a tree like it of ShapeDtypeStructs with shardings, for restoring.
    """

    def build() -> TrainState:
        params = init()
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), {})

    shapes = jax.eval_shape(build)
    shardings = meshes.matching_shardings(mesh, shapes, shapes.params)
    state = jax.jit(build, out_shardings=shardings)()
    like = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), shapes, shardings)
    return state, like
