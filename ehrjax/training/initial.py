"""Starting from another run's parameters (`init.checkpoint`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ehrjax.core import trees
from ehrjax.core.errors import InputError
from ehrjax.training import run
from ehrjax.training.state import TrainState
from ehrjax.vocab.vocabulary import Vocabulary


@dataclass(frozen=True)
class Settings:
    """The `init` section.

    Attributes:
      checkpoint: a workdir whose parameters this run starts from; empty starts afresh.
      skip: regular expressions over parameter paths that start afresh all the same.
    """

    checkpoint: str = ""
    skip: tuple[str, ...] = ()


def start_from(settings: Settings, state: TrainState, vocabulary: Vocabulary) -> TrainState:
    """The state with the parameters of another run, lying where the state's lie.

    Args:
      settings: the config section.
      state: a fresh state.
      vocabulary: of the data to train on; it must be the other run's.

    Raises:
      InputError: no such run, another vocabulary, or a parameter that is absent or has another shape there.
    """
    if not settings.checkpoint:
        return state
    other = run.load(settings.checkpoint)
    if other.vocabulary.fingerprint != vocabulary.fingerprint:
        raise InputError(
            f"The vocabulary of {settings.checkpoint} ({len(other.vocabulary)} tokens) is not that of the data "
            f"({len(vocabulary)} tokens); prepare the tokens with --fitted-from the old token dataset."
        )
    return state.replace(params=_replaced(state.params, other.params, settings.skip, Path(settings.checkpoint)))


def _replaced(fresh: Mapping[str, Any], loaded: Mapping[str, Any], skip: tuple[str, ...], where: Path) -> Any:
    saved = trees.flatten(loaded)
    for pattern in skip:
        if not any(re.search(pattern, path) for path in trees.flatten(fresh)):
            raise InputError(f"init.skip holds {pattern!r}, which matches no parameter.")

    def choose(path: str, leaf: jax.Array) -> jax.Array:
        if any(re.search(pattern, path) for pattern in skip):
            return leaf
        if path not in saved:
            raise InputError(f"{where} has no parameter {path}; add it to init.skip to start it afresh.")
        if saved[path].shape != leaf.shape:
            raise InputError(f"{where} has {path} of shape {saved[path].shape}, the config makes it {leaf.shape}.")
        return jax.device_put(np.asarray(saved[path], leaf.dtype), leaf.sharding)

    return trees.map_paths(choose, fresh)
