"""The device mesh and which parameter lies where.

Axes: `data` splits rows, `fsdp` splits rows and parameters, `tensor` splits the width of matrices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ehrjax.core import trees
from ehrjax.core.errors import InputError

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")

# The dimension of a matrix, counted from its end, that `tensor` splits: what a matrix makes for the next one
# to take is split the same way in both, so that they need one exchange between them and not two.
TENSOR_RULES: trees.Rules = (
    (r"attention/(query|key|value)/(kernel|bias)$", -1),
    (r"attention/out/kernel$", -2),
    (r"mlp/(up|gate)/(kernel|bias)$", -1),
    (r"mlp/down/kernel$", -2),
    (r"embeddings/code/embedding$", -2),
    (r"head/codes/(kernel|bias)$", -1),
    (r"", None),
)


@dataclass(frozen=True)
class Settings:
    """The `mesh` section of a config: devices along each axis; -1 for `data` takes all that are left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1


def make(settings: Settings, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over all devices, or over those given.

    The axis types are Auto: with jax's default (Explicit) a sharding constraint would only assert.

    Raises:
      InputError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    for name in ("fsdp", "tensor"):
        if getattr(settings, name) < 1:
            raise InputError(f"config.mesh.{name} is {getattr(settings, name)}; it must be at least 1.")
    rest = settings.fsdp * settings.tensor
    data = len(devices) // rest if settings.data == -1 else settings.data
    if data < 1 or data * rest != len(devices):
        raise InputError(
            f"config.mesh asks for data={settings.data} x fsdp={settings.fsdp} x tensor={settings.tensor}, "
            f"which does not make the {len(devices)} devices that there are."
        )
    shape = (data, settings.fsdp, settings.tensor)
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def check_batch(mesh: Mesh, batch_size: int, accumulate: int) -> None:
    """Raises InputError unless the rows divide evenly over accumulation steps and devices."""
    parts = int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))
    if batch_size < 1 or batch_size % (parts * accumulate):
        raise InputError(
            f"batch_size={batch_size} rows cannot be divided over {parts} devices (mesh.data x mesh.fsdp)"
            + (f" and {accumulate} accumulation steps" if accumulate > 1 else "")
            + f"; choose a multiple of {parts * accumulate}."
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis (rows) is split over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def parameter_shardings(mesh: Mesh, shapes: Mapping[str, Any]) -> trees.Tree:
    """Where each parameter lies: `tensor` by TENSOR_RULES, then `fsdp` on the largest dimension left.

    A dimension is only split where its size divides evenly; otherwise that axis replicates.

    Args:
      mesh: from `make`.
      shapes: a parameter tree (arrays or ShapeDtypeStructs).
    """

    def place(path: str, leaf: Any) -> NamedSharding:
        first = 1 if trees.is_stacked(path) else 0  # the layer axis is scanned over, never split
        spec: list[str | None] = [None] * leaf.ndim
        wanted = trees.first_match(TENSOR_RULES, path)
        if wanted is not None and leaf.ndim + wanted >= first and leaf.shape[wanted] % mesh.shape["tensor"] == 0:
            spec[wanted] = "tensor"
        sizes = {d: leaf.shape[d] for d in range(first, leaf.ndim) if spec[d] is None}
        for dimension in sorted(sizes, key=lambda d: -sizes[d]):
            if sizes[dimension] % mesh.shape["fsdp"] == 0 and leaf.ndim - first > 1:
                spec[dimension] = "fsdp"
                break
        return NamedSharding(mesh, PartitionSpec(*spec))

    return trees.map_paths(place, shapes)


def matching_shardings(mesh: Mesh, tree: Any, parameters: Mapping[str, Any]) -> Any:
    """Shardings for any tree that holds copies of the parameters (optimizer state, averages).

    A leaf whose path ends in a parameter's path and has its shape lies where that parameter lies;
    everything else is replicated.
    """
    placed = trees.flatten(parameter_shardings(mesh, parameters))
    shapes = {path: leaf.shape for path, leaf in trees.flatten(parameters).items()}

    def place(key_path: tuple, leaf: Any) -> NamedSharding:
        names = [str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in key_path]
        for start in range(len(names)):
            path = "/".join(names[start:])
            if shapes.get(path) == getattr(leaf, "shape", None):
                return placed[path]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, tree)


def local_rows(mesh: Mesh, batch_size: int) -> range:
    """The rows of a global batch that this process's devices hold (the smallest contiguous range)."""
    indices = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    spans = [index[0].indices(batch_size) for index in indices]
    return range(min(span[0] for span in spans), max(span[1] for span in spans))


def to_devices(mesh: Mesh, batch: Mapping[str, np.ndarray], *, rows: range, batch_size: int) -> dict[str, jax.Array]:
    """Makes global arrays from the rows that this process has built."""
    sharding = batch_sharding(mesh)

    def put(array: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...]) -> np.ndarray:
            begin, end, _ = index[0].indices(batch_size)
            return array[begin - rows.start : end - rows.start]

        return jax.make_array_from_callback((batch_size, *array.shape[1:]), sharding, part)

    return {name: put(array) for name, array in batch.items()}
