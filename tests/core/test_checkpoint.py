"""Checkpoints: what is saved comes back, what is not complete is not seen, what does not fit is named."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ehrjax.core import checkpoint
from ehrjax.core import mesh as meshes
from ehrjax.core.errors import InputError

DEVICES = 8
STATE = {"params": {"a": {"kernel": jnp.arange(32.0).reshape(8, 4)}}, "step": jnp.int32(3)}


def like(state: dict, sharding: jax.sharding.Sharding | None = None) -> dict:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), state)


def test_round_trip_and_retention(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoints(tmp_path / "last")
    assert saved.latest is None
    for step in (1, 2, 3):
        saved.save(
            step, jax.tree.map(lambda x, step=step: x + step, STATE), {"epoch": step, "best": None, "stopped": False}
        )
    saved.close()
    assert checkpoint.steps(tmp_path / "last") == [2, 3]
    again = checkpoint.Checkpoints(tmp_path / "last")
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state, progress = again.restore(like(STATE, one))
    assert progress == {"epoch": 3, "best": None, "stopped": False}
    np.testing.assert_array_equal(state["params"]["a"]["kernel"], STATE["params"]["a"]["kernel"] + 3)
    params, step = checkpoint.read_subtree(tmp_path / "last", "params")
    assert step == 3 and isinstance(params["a"]["kernel"], np.ndarray)
    again.close()


def test_restore_onto_another_mesh(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoints(tmp_path / "last")
    saved.save(1, STATE, {"epoch": 0})
    saved.close()
    mesh = meshes.make(meshes.Settings(2, 4, 1), jax.devices()[:8])
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=meshes.batch_sharding(mesh) if x.ndim else meshes.replicated(mesh)
        ),
        STATE,
    )
    again = checkpoint.Checkpoints(tmp_path / "last")
    state, _ = again.restore(rows)
    again.close()
    assert state["params"]["a"]["kernel"].addressable_data(0).shape == (1, 4)
    np.testing.assert_array_equal(state["params"]["a"]["kernel"], STATE["params"]["a"]["kernel"])


def test_an_unfinished_save_is_not_seen(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoints(tmp_path / "last")
    saved.save(1, STATE, {"epoch": 0})
    saved.close()
    (tmp_path / "last" / "2.orbax-checkpoint-tmp-1").mkdir()
    again = checkpoint.Checkpoints(tmp_path / "last")
    assert again.latest == 1
    again.close()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoints(tmp_path / "last")
    saved.save(1, STATE, {"epoch": 0})
    other = {"params": {"a": {"kernel": jnp.zeros((8, 5))}}, "step": jnp.int32(0)}
    with pytest.raises(InputError, match=r"params/a/kernel is \(8, 4\) there and \(8, 5\) here"):
        saved.restore(like(other))
    saved.close()
    with pytest.raises(InputError, match="no complete checkpoint"):
        checkpoint.read_subtree(tmp_path / "nothing", "params")


def big(state: dict) -> dict:
    """A state whose arrays lie in files of their own."""
    return jax.tree.map(lambda x: np.tile(np.asarray(x, np.float32).reshape(-1), 2000), state)


def restored(folder: Path) -> None:
    with contextlib.closing(checkpoint.Checkpoints(folder)) as saved:
        saved.restore(big(STATE))


@pytest.mark.parametrize("way", ["of a run", "alone"])
def test_a_truncated_file_is_one_sentence(way: str, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    if way == "alone":
        checkpoint.write(whole, big(STATE), {"epoch": 0})
    else:
        saved = checkpoint.Checkpoints(whole)
        saved.save(0, big(STATE), {"epoch": 0})
        saved.close()
    refused = 0
    for number, file in enumerate(path for path in (whole / "0" / "state").rglob("*") if path.is_file()):
        damaged = tmp_path / str(number)
        shutil.copytree(whole, damaged)
        part = damaged / file.relative_to(whole)
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
        for read in (
            lambda folder: checkpoint.read_subtree(folder, "params"),
            lambda folder: list(checkpoint.read_leaves(folder, "params")),
            restored,
        ):
            try:
                read(damaged)
            except InputError as error:
                assert "cannot be read (" in str(error) and "\n" not in str(error)
                refused += 1
    assert refused >= 9, "the arrays' file, their list and its index, each read in three ways"
    with pytest.raises(InputError, match="has no 'optimiser'"):
        checkpoint.read_subtree(whole, "optimiser")
    with pytest.raises(InputError, match="has no 'optimiser'"):
        list(checkpoint.read_leaves(whole, "optimiser"))


def test_later_checkpoints_are_dropped_on_resume(tmp_path: Path) -> None:
    saved = checkpoint.Checkpoints(tmp_path / "best", keep=3)
    for step in (1, 5, 9):
        saved.save(step, STATE, {"epoch": 0})
    saved.close()
    checkpoint.drop_after(tmp_path / "best", 5)
    assert checkpoint.steps(tmp_path / "best") == [1, 5]
