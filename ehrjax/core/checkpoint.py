"""Checkpoints: the one module that knows Orbax (its v1 API).

`DIR/last/<step>` keeps the newest few, `DIR/best/<step>` the one with the best tuning metric. Saving is
asynchronous and atomic: a step's folder appears under its name only when it is complete.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from ehrjax.core import files
from ehrjax.core.errors import InputError, RunError

KEEP = 2
# Bytes of a lone checkpoint that are under way to the disk at once, unless a single leaf is larger.
_UNDER_WAY = 1 << 26
# What is read at once rather than leaf by leaf.
_SMALL = 1 << 28


class Checkpoints:
    """A sequence of checkpoints, each the arrays of a state and a JSON object of host-side progress."""

    def __init__(self, folder: str | Path, *, keep: int = KEEP) -> None:
        # What goes wrong comes back as an exception; the log would print its traceback as well.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._folder = Path(folder).absolute()
        policies = ocp.training.preservation_policies
        self._orbax = ocp.training.Checkpointer(
            self._folder,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )
        self._pending: Any = None

    @property
    def latest(self) -> int | None:
        """The newest complete step."""
        newest = self._orbax.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: Any, progress: Mapping[str, Any]) -> None:
        """Starts saving; it goes on in the background. A step that exists already is left as it is.

        Args:
          step: the checkpoint's number.
          state: a tree of arrays.
          progress: a JSON object with at least one entry.

        Raises:
          InputError: the disk is full.
          RunError: this save or the one before it could not be written for another reason.
        """
        self.wait()
        if any(existing.step == step for existing in self._orbax.checkpoints):
            return
        try:
            self._pending = self._orbax.save_checkpointables_async(
                step, {"state": state, "progress": dict(progress)}, force=True
            )
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until the save under way is complete on disk.

        Raises:
          InputError: the disk is full.
          RunError: it could not be written for another reason.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: BaseException) -> InputError | RunError:
        text = str(error)
        newest = (steps(self._folder) or ["none"])[-1]
        full = isinstance(error, OSError) and error.errno in files.FULL
        if full or any(sign in text for sign in ("No space left", "ENOSPC", "Disk quota", "File too large")):
            return InputError(
                f"The disk holding {self._folder} is full, so a checkpoint could not be written (newest complete "
                f"step: {newest}); free space and run the same command again."
            )
        return RunError(
            f"A checkpoint could not be written to {self._folder} ({type(error).__name__}: "
            f"{text.splitlines()[0] if text else ''}); the newest complete step is {newest}."
        )

    def restore(self, like: Any, step: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Reads a checkpoint into the shapes, dtypes and shardings of `like`, after the save under way.

        Args:
          like: a tree of ShapeDtypeStructs (with shardings) or arrays.
          step: default the newest.

        Returns:
          The state and the progress object.

        Raises:
          InputError: there is no checkpoint, it is damaged, or it does not fit `like`.
        """
        self.wait()
        step = self.latest if step is None else step
        if step is None:
            raise InputError(f"{self._folder} holds no complete checkpoint.")
        path = self._folder / str(step)
        with _readable(path):
            metadata = _state(self._orbax.checkpointables_metadata(step))
        check_shapes(metadata, like, where=path)
        with _readable(path):
            loaded = self._orbax.load_checkpointables(step, {"state": like, "progress": None})
            return loaded["state"], loaded["progress"]

    def close(self) -> None:
        """Waits for the save under way and lets go of the folder."""
        self.wait()
        self._orbax.close()


def write(folder: str | Path, state: Any, progress: Mapping[str, Any]) -> None:
    """Writes `folder/0`, a lone checkpoint of arrays that nothing changes meanwhile: they are written without a copy.

    Args:
      folder: see Checkpoints.
      state: a tree of numpy arrays, which may lie in files (numpy.memmap).
      progress: a JSON object with at least one entry.

    Raises:
      InputError: the disk is full.
      RunError: it could not be written for another reason.
    """
    context = ocp.Context()
    context.memory.deepcopy_host_arrays = False
    # One leaf under way at a time, or several small ones; OCDBT would hold all of them until its end.
    context.array.saving.use_ocdbt = False
    context.memory.write_concurrent_bytes = max(_UNDER_WAY, *(leaf.nbytes for leaf in jax.tree.leaves(state)))
    with context:
        saver = Checkpoints(folder)
        saver.save(0, state, progress)
        saver.close()


def _leaves(tree: Any) -> dict[str, Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path): leaf
        for path, leaf in flat
    }


def check_shapes(saved: Any, expected: Any, *, where: Path) -> None:
    """Raises InputError, naming the first leaf that differs, unless two trees have the same paths and shapes."""
    a, b = ({key: tuple(leaf.shape) for key, leaf in _leaves(tree).items()} for tree in (saved, expected))
    for key in sorted(set(a) | set(b)):
        if a.get(key) != b.get(key):
            raise InputError(
                f"The checkpoint {where} does not fit the model: {key} is {a.get(key, 'absent')} there and "
                f"{b.get(key, 'absent')} here."
            )


def steps(folder: str | Path) -> list[int]:
    """The complete checkpoints in a folder, ascending."""
    folder = Path(folder)
    return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else []


def drop_after(folder: str | Path, step: int) -> None:
    """Removes checkpoints later than `step`: a resumed run will write them again."""
    for later in [s for s in steps(folder) if s > step]:
        shutil.rmtree(Path(folder) / str(later))


def read_leaves(folder: str | Path, name: str) -> Iterator[tuple[str, np.ndarray]]:
    """As `read_subtree`, one leaf after another where they are large: yields each path below the entry and its array.

    Raises:
      InputError: there is no complete checkpoint in `folder`, or it is damaged.
    """
    path, metadata = _opened(folder, None, name)
    there = _leaves(metadata[name])
    if sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in there.values()) <= _SMALL:
        yield from _leaves(_read(path, metadata, name, set(there))).items()
        return
    for key in there:
        yield key, _leaves(_read(path, metadata, name, {key}))[key]


def read_subtree(folder: str | Path, name: str, *, step: int | None = None) -> tuple[Any, int]:
    """Reads one entry of a saved state ("params") as numpy arrays on the host, without knowing its shapes.

    Returns:
      The entry and the step it is from.

    Raises:
      InputError: there is no complete checkpoint in `folder`, or it is damaged.
    """
    path, metadata = _opened(folder, step, name)
    return _read(path, metadata, name, set(_leaves(metadata[name]))), int(path.name)


def _opened(folder: str | Path, step: int | None, name: str) -> tuple[Path, Any]:
    """A checkpoint's folder (the newest one's without a step), and the shapes of its state, which has the entry."""
    folder = Path(folder).absolute()
    known = steps(folder)
    if not known:
        raise InputError(f"{folder} holds no complete checkpoint.")
    path = folder / str(known[-1] if step is None else step)
    with _readable(path):
        metadata = _state(ocp.checkpointables_metadata(path))
    if name not in metadata:
        raise InputError(f"The checkpoint {path} cannot be read: it has no {name!r}.")
    return path, metadata


def _state(found: Any) -> Any:
    """The shapes of a checkpoint's state; Orbax says None where the files that tell them are damaged."""
    state = found.metadata.get("state")
    if state is None:
        raise ValueError("what its state holds cannot be told, a file is truncated or missing")
    return state


def _read(path: Path, metadata: Any, name: str, wanted: set[str]) -> Any:
    """An entry of a state with only the wanted leaves read."""
    leaves = _leaves(metadata[name])
    like = [np.empty(leaf.shape, leaf.dtype) if key in wanted else ocp.PLACEHOLDER for key, leaf in leaves.items()]
    state = {key: jax.tree.map(lambda _: ocp.PLACEHOLDER, metadata[key]) for key in metadata}
    state[name] = jax.tree.unflatten(jax.tree.structure(metadata[name]), like)
    with _readable(path):
        return ocp.load_checkpointables(path, {"state": state})["state"][name]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What Orbax raises for a damaged checkpoint as InputError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError) as error:
        # Of Orbax's own message, which goes on for pages, the beginning tells what there is to tell.
        why = (str(error).strip("'\"").split(" due to incompatible handler")[0].splitlines() or [type(error).__name__])[
            0
        ]
        raise InputError(
            f"The checkpoint {path} cannot be read ({why}); restore its files, or remove it where there is another."
        ) from error
